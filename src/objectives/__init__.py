"""What can be learned: one file an objective, each by its name in ``conf/objective``."""

from src.objectives.sft import SFT
from src.training.objective import Objective

OBJECTIVES: dict[str, type[Objective]] = {"sft": SFT}
