"""What can be learned: one file an objective, each by its name in ``conf/objective``."""

from src.objectives.dpo import DPO
from src.objectives.ppo import GRPO, PPO, RLOO
from src.objectives.reward import Reward
from src.objectives.sft import SFT
from src.training.objective import Objective

OBJECTIVES: dict[str, type[Objective]] = {
    "sft": SFT,
    "reward": Reward,
    "dpo": DPO,
    "ppo": PPO,
    "rloo": RLOO,
    "grpo": GRPO,
}
