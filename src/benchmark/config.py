"""The values of ``conf/benchmark.yaml``: those of training, and how to measure."""

from dataclasses import dataclass

from src.errors import UserError
from src.model.config import ModelConfig
from src.training.config import AUTO, TrainConfig


@dataclass
class BenchmarkConfig(TrainConfig):
    """What ``conf/benchmark.yaml`` holds; its comments say what each value means."""

    what: str
    variants: list[str] | None
    show: str | None
    repeats: int
    seconds: float
    num_rows: int
    batch_size: int | str
    tiny: ModelConfig

    def __post_init__(self) -> None:
        """Check ranges; raise UserError naming the key."""
        if not 0 <= self.seconds < float("inf"):
            raise UserError(f"seconds={self.seconds}: must be 0 or more, and finite")
        for key in ("repeats", "num_rows"):
            if getattr(self, key) < 1:
                raise UserError(f"{key}={getattr(self, key)}: must be at least 1")
        if self.batch_size != AUTO:
            if not isinstance(self.batch_size, int):
                raise UserError(f"batch_size={self.batch_size}: must be at least 1, or auto")
            super().__post_init__()

    def has(self, name: str) -> bool:
        """Whether a variant is to be measured."""
        return self.variants is None or name in self.variants
