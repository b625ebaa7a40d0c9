"""The values of ``conf/train.yaml``: types and ranges, no defaults."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from src.checks import AUTO, Rule, above, at_least, check, one_of, within
from src.data.config import DataConfig
from src.errors import UserError
from src.files.run_name import check_name
from src.model.config import ModelConfig
from src.model.generation_config import GenerationConfig

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
ACCELERATORS = (AUTO, "cpu", "gpu", "mps")
STRATEGIES = (AUTO, "ddp", "fsdp")
LOGGERS = ("tensorboard", "wandb")

BETAS = Rule(
    "must be two numbers in [0, 1)",
    lambda betas: len(betas) == 2 and all(0 <= beta < 1 for beta in betas),
)


@dataclass
class OptimizerConfig:
    """AdamW and its schedule."""

    learning_rate: Annotated[float, above(0)]
    betas: Annotated[tuple[float, float], BETAS]
    weight_decay: Annotated[float, at_least(0)]
    warmup_steps: Annotated[int, at_least(0)]
    warmup_from_zero: bool
    max_warmup_share: Annotated[float, within("[0, 1]")]
    min_learning_rate_ratio: Annotated[float, within("[0, 1]")]
    decay_steps: Annotated[int | None, at_least(1).or_null("for the run's length")]
    max_grad_norm: Annotated[float | None, above(0).or_null("for no clipping")]

    def __post_init__(self) -> None:
        """Check ranges; raise UserError naming the key."""
        check(self, "optimizer.")


@dataclass
class LoRAConfig:
    """Adapters: small matrices that learn in place of the model's weights (LoRA)."""

    rank: Annotated[int | None, at_least(1).or_null("for full fine-tuning")]
    alpha: Annotated[float, above(0)]
    dropout: Annotated[float, within("[0, 1)")]

    def __post_init__(self) -> None:
        """Check ranges; raise UserError naming the key."""
        check(self, "lora.")


@dataclass
class TrainerConfig:
    """How Lightning's Trainer runs; intervals are in optimizer steps."""

    accelerator: Annotated[str, one_of(ACCELERATORS)]
    devices: Annotated[int | str, at_least(1).or_auto()]
    num_nodes: Annotated[int, at_least(1)]
    strategy: Annotated[str, one_of(STRATEGIES)]
    precision: Annotated[str, one_of((AUTO, *PRECISIONS))]
    threads: Annotated[int | str, within("[1, 1024]").or_auto()]
    compile: bool
    activation_checkpointing: bool
    deterministic: bool
    log_every_n_steps: Annotated[int, at_least(1)]
    val_every_n_steps: Annotated[int | None, at_least(1)]
    max_val_blocks: Annotated[int | str | None, at_least(1).or_auto()]
    max_test_blocks: Annotated[int | None, at_least(1).or_null("for all")]
    checkpoint_every_n_steps: Annotated[int, at_least(1)]
    patience: Annotated[int | None, at_least(1).or_null("to train to the end")]
    keep_every_n_steps: Annotated[int | None, at_least(1).or_null("to keep none")]
    keep_optimizer: bool

    def __post_init__(self) -> None:
        """Check ranges; raise UserError naming the key."""
        check(self, "trainer.")


@dataclass
class ReferenceConfig:
    """A run that others have published, to stand beside this one at its end."""

    name: str
    loss: float
    accuracy: float
    seconds: float
    steps: Annotated[int, at_least(1)]
    average_over: Annotated[int, at_least(1)]  # its last training steps, each of which counts once
    replies_before: dict[str, str]  # of its model, by question
    replies: dict[str, str]

    def __post_init__(self) -> None:
        """Check ranges; raise UserError naming the key."""
        check(self, "reference.")


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
    name: str | None
    seed: Annotated[int, within("[0, 2^32)")]
    batch_size: Annotated[int, at_least(1)]
    micro_batch_size: Annotated[int | str, at_least(1).or_auto()]
    max_epochs: Annotated[int | None, at_least(1).or_null()]
    max_steps: Annotated[int | None, at_least(1).or_null()]
    resume: str | None
    continue_from: str | None
    logger: Annotated[str, one_of(LOGGERS)]
    sample_prompts: list[str]
    sample_seconds: Annotated[float, above(0)]
    exact_match: bool
    reference: ReferenceConfig | None

    def __post_init__(self) -> None:
        """Check ranges; raise UserError naming the key."""
        check(self)
        check_name(self.name)
        if self.max_epochs is None and self.max_steps is None:
            raise UserError("max_epochs and max_steps are both null: set one of them")
        if self.trainer.strategy == "fsdp" and self.lora.rank is not None:
            raise UserError(
                f"lora.rank={self.lora.rank} does not go with trainer.strategy=fsdp: the model is "
                f"not learned and small beside what is; use trainer.strategy=ddp"
            )
