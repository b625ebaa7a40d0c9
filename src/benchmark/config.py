"""The values of ``conf/benchmark.yaml``: those of training, and how to measure."""

from dataclasses import dataclass

from src.benchmark.learn import PUPILS, LearnConfig
from src.benchmark.scale import ScaleConfig
from src.benchmark.variants import NAMES, PARTS
from src.errors import UserError
from src.model.config import ModelConfig
from src.training.config import AUTO, TrainConfig

ALL = "all"
ALONE = ("scale", "learn")  # minutes and more: only if asked for


@dataclass
class BenchmarkConfig(TrainConfig):
    """What ``conf/benchmark.yaml`` holds; its comments say what each value means."""

    what: str
    variants: list[str] | None
    repeats: int
    seconds: float
    num_rows: int
    keep_alive: bool
    cpu_batch_size: int
    gpu_batch_size: int
    batch_size: int | str
    tiny: ModelConfig
    tiny_block_size: int
    sizes: dict[str, ModelConfig]
    scale: ScaleConfig
    learn: LearnConfig

    def __post_init__(self) -> None:
        """Check ranges; raise UserError naming the key."""
        whats = (*PARTS, *ALONE, ALL)
        if self.what not in whats:
            raise UserError(f"what={self.what}: must be one of {', '.join(whats)}")
        names = set().union(*(NAMES.get(part, ()) for part in self.parts()))
        if self.what == "learn":
            names |= PUPILS.keys()
        for name in self.variants or ():
            if name not in names:
                raise UserError(
                    f"variants: what={self.what} has no {name}; "
                    f"it has {', '.join(sorted(names)) or 'none'}"
                )
        for key in ("cpu_models", "gpu_models"):
            for name in getattr(self.scale, key):
                if name not in self.sizes:
                    raise UserError(
                        f"scale.{key}: there is no {name}; there are {', '.join(self.sizes)}"
                    )
                longest = self.sizes[name].n_positions
                if max(self.scale.block_sizes, default=0) > longest:
                    raise UserError(
                        f"scale.block_sizes={self.scale.block_sizes}: {name} has {longest} "
                        f"positions"
                    )
        tiny = {"tiny_block_size": self.tiny_block_size, "learn.block_size": self.learn.block_size}
        for key, size in tiny.items():
            if size > self.tiny.n_positions:
                raise UserError(f"{key}={size}: tiny has {self.tiny.n_positions} positions")
        if not 0 <= self.seconds < float("inf"):
            raise UserError(f"seconds={self.seconds}: must be 0 or more, and finite")
        for key in ("repeats", "num_rows", "cpu_batch_size", "gpu_batch_size", "tiny_block_size"):
            if getattr(self, key) < 1:
                raise UserError(f"{key}={getattr(self, key)}: must be at least 1")
        if self.batch_size != AUTO:
            if not isinstance(self.batch_size, int):
                raise UserError(f"batch_size={self.batch_size}: must be at least 1, or auto")
            super().__post_init__()

    def parts(self) -> tuple[str, ...]:
        """Return what is to be measured."""
        return PARTS if self.what == ALL else (self.what,)

    def has(self, name: str) -> bool:
        """Whether a variant is to be measured."""
        return self.variants is None or name in self.variants
