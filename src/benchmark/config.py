"""The values of ``conf/benchmark.yaml``: those of training, and how to measure."""

from dataclasses import dataclass

from src.errors import UserError
from src.model.config import ModelConfig
from src.training.config import AUTO, TrainConfig


@dataclass
class LearnConfig:
    """The ``learn`` of ``conf/benchmark.yaml``; its comments say what each value means."""

    num_rows: int
    block_size: int
    batch_size: int
    epochs: float
    learning_rate: float
    seeds: int

    def __post_init__(self) -> None:
        """Check ranges; raise UserError naming the key."""
        for key in ("num_rows", "block_size", "batch_size", "seeds"):
            if getattr(self, key) < 1:
                raise UserError(f"learn.{key}={getattr(self, key)}: must be at least 1")
        for key in ("epochs", "learning_rate"):
            if not 0 < getattr(self, key) < float("inf"):
                raise UserError(f"learn.{key}={getattr(self, key)}: must be above 0, and finite")


@dataclass
class BenchmarkConfig(TrainConfig):
    """What ``conf/benchmark.yaml`` holds; its comments say what each value means."""

    what: str
    variants: list[str] | None
    show: str | None
    repeats: int
    seconds: float
    num_rows: int
    prepare_rows: int | None
    batch_size: int | str
    cpu_batch_size: int
    gpu_batch_size: int
    tiny: ModelConfig
    tiny_block_size: int
    learn: LearnConfig

    def __post_init__(self) -> None:
        """Check ranges; raise UserError naming the key."""
        tiny = {"tiny_block_size": self.tiny_block_size, "learn.block_size": self.learn.block_size}
        for key, size in tiny.items():
            if size > self.tiny.n_positions:
                raise UserError(f"{key}={size}: tiny has {self.tiny.n_positions} positions")
        if not 0 <= self.seconds < float("inf"):
            raise UserError(f"seconds={self.seconds}: must be 0 or more, and finite")
        counts = ("repeats", "num_rows", "prepare_rows", "tiny_block_size")
        for key in (*counts, "cpu_batch_size", "gpu_batch_size"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise UserError(f"{key}={value}: must be at least 1")
        if self.batch_size != AUTO:
            if not isinstance(self.batch_size, int):
                raise UserError(f"batch_size={self.batch_size}: must be at least 1, or auto")
            super().__post_init__()

    def has(self, name: str) -> bool:
        """Whether a variant is to be measured."""
        return self.variants is None or name in self.variants
