"""The values of ``conf/benchmark.yaml``: those of training, and how to measure."""

from dataclasses import dataclass
from typing import Annotated, Any

from src.checks import Rule, at_least
from src.model.config import ModelConfig
from src.objectives.dpo_module import DPOConfig
from src.objectives.ppo_module import PPOConfig
from src.objectives.reward import RewardConfig
from src.training.config import TrainConfig

BLOCKS = Rule("must be at least 1", lambda size: isinstance(size, int) and size >= 1).or_auto()


@dataclass
class BenchmarkConfig(TrainConfig):
    """What ``conf/benchmark.yaml`` holds; its comments say what each value means."""

    what: str
    variants: list[str] | None
    show: str | None
    repeats: Annotated[int, at_least(1)]
    seconds: Annotated[float, at_least(0)]
    num_rows: Annotated[int, at_least(1)]
    batch_size: Annotated[Any, BLOCKS]
    tiny: ModelConfig
    reward: RewardConfig
    dpo: DPOConfig
    ppo: PPOConfig

    @property
    def block_size(self) -> int:
        """Positions of a block, once ``write_inputs`` has said it."""
        assert self.data.block_size is not None
        return self.data.block_size

    @property
    def model_folder(self) -> str:
        """The folder of the weights and the tokenizer that ``write_inputs`` has written."""
        assert self.model.pretrained is not None
        return self.model.pretrained

    def has(self, name: str) -> bool:
        """Whether a variant is to be measured."""
        return self.variants is None or name in self.variants
