"""The values of ``conf/train.yaml``: types and ranges, no defaults."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from src.data.config import DataConfig
from src.errors import UserError
from src.model.config import ModelConfig
from src.model.generation_config import GenerationConfig

AUTO = "auto"
Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


def _require(holds: bool, key: str, value: object, rule: str) -> None:
    if not holds:
        raise UserError(f"{key}={value}: {rule}")


@dataclass
class OptimizerConfig:
    """AdamW and its schedule."""

    learning_rate: float
    betas: tuple[float, float]
    weight_decay: float
    warmup_steps: int
    max_warmup_share: float
    min_learning_rate_ratio: float
    decay_steps: int | None
    max_grad_norm: float | None

    def __post_init__(self) -> None:
        """Check ranges; raise UserError naming the key."""
        rules = {
            "learning_rate": (0 < self.learning_rate < float("inf"), "must be above 0"),
            "betas": (
                len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas),
                "must be two numbers in [0, 1)",
            ),
            "weight_decay": (self.weight_decay >= 0, "must be 0 or more"),
            "warmup_steps": (self.warmup_steps >= 0, "must be 0 or more"),
            "max_warmup_share": (0 <= self.max_warmup_share <= 1, "must be in [0, 1]"),
            "min_learning_rate_ratio": (
                0 <= self.min_learning_rate_ratio <= 1,
                "must be in [0, 1]",
            ),
            "decay_steps": (
                self.decay_steps is None or self.decay_steps >= 1,
                "must be at least 1, or null for the run's length",
            ),
            "max_grad_norm": (
                self.max_grad_norm is None or self.max_grad_norm > 0,
                "must be above 0, or null for no clipping",
            ),
        }
        for key, (holds, rule) in rules.items():
            _require(holds, f"optimizer.{key}", getattr(self, key), rule)


@dataclass
class LoRAConfig:
    """Small matrices that learn in place of the model's own (LoRA), or nothing of the kind."""

    rank: int | None
    alpha: float
    dropout: float

    def __post_init__(self) -> None:
        """Check ranges; raise UserError naming the key."""
        holds = self.rank is None or self.rank >= 1
        _require(holds, "lora.rank", self.rank, "must be at least 1, or null for full fine-tuning")
        _require(self.alpha > 0, "lora.alpha", self.alpha, "must be above 0")
        _require(0 <= self.dropout < 1, "lora.dropout", self.dropout, "must be in [0, 1)")


@dataclass
class TrainerConfig:
    """What Lightning's Trainer is told, and how often things happen (in optimizer steps)."""

    accelerator: str
    devices: int | str
    num_nodes: int
    strategy: str
    precision: str
    compile: bool
    activation_checkpointing: bool
    deterministic: bool
    log_every_n_steps: int
    val_every_n_steps: int | None
    checkpoint_every_n_steps: int

    def __post_init__(self) -> None:
        """Check ranges; raise UserError naming the key."""
        precisions = (AUTO, *PRECISIONS)
        _require(
            self.precision in precisions,
            "trainer.precision",
            self.precision,
            f"must be one of {', '.join(precisions)}",
        )
        accelerators = (AUTO, "cpu", "gpu", "mps")
        _require(
            self.accelerator in accelerators,
            "trainer.accelerator",
            self.accelerator,
            f"must be one of {', '.join(accelerators)}",
        )
        strategies = (AUTO, "ddp", "fsdp")
        _require(
            self.strategy in strategies,
            "trainer.strategy",
            self.strategy,
            f"must be one of {', '.join(strategies)}",
        )
        _require(
            self.devices == AUTO or (isinstance(self.devices, int) and self.devices >= 1),
            "trainer.devices",
            self.devices,
            "must be at least 1, or auto",
        )
        for key in (
            "num_nodes",
            "log_every_n_steps",
            "val_every_n_steps",
            "checkpoint_every_n_steps",
        ):
            value = getattr(self, key)
            _require(value is None or value >= 1, f"trainer.{key}", value, "must be at least 1")


@dataclass
class ObjectiveConfig:
    """The values of ``conf/objective``; an objective with settings of its own extends it."""

    name: str


@dataclass
class TrainConfig:
    """The whole run."""

    objective: Any  # what the objective's own ``Config`` describes
    data: DataConfig
    model: ModelConfig
    generation: GenerationConfig
    optimizer: OptimizerConfig
    lora: LoRAConfig
    trainer: TrainerConfig
    seed: int
    batch_size: int
    micro_batch_size: int | str
    max_epochs: int | None
    max_steps: int | None
    resume: str | None
    sample_prompts: list[str]
    exact_match: bool

    def __post_init__(self) -> None:
        """Check ranges; raise UserError naming the key."""
        _require(0 <= self.seed < 2**32, "seed", self.seed, "must be in [0, 2^32)")
        _require(self.batch_size >= 1, "batch_size", self.batch_size, "must be at least 1")
        micro = self.micro_batch_size
        _require(
            micro == AUTO or (isinstance(micro, int) and micro >= 1),
            "micro_batch_size",
            micro,
            "must be at least 1, or auto",
        )
        for key in ("max_epochs", "max_steps"):
            value = getattr(self, key)
            _require(value is None or value >= 1, key, value, "must be at least 1, or null")
        if self.max_epochs is None and self.max_steps is None:
            raise UserError("max_epochs and max_steps are both null: set one of them")
        if self.trainer.strategy == "fsdp" and self.lora.rank is not None:
            raise UserError(
                f"lora.rank={self.lora.rank} does not go with trainer.strategy=fsdp: the model is "
                f"not learned and small beside what is; use trainer.strategy=ddp"
            )
