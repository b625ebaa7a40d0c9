"""How much of a run its validations may take: a tenth of training, or what a person says."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from src.training.config import AUTO, TrainConfig

MOST_OF_TRAINING = 0.1


@dataclass(frozen=True)
class Validations:
    """The validations of a run.

    num: of them: before the first step, every so many steps, and after the last.
    max_blocks: that each scores, drawn from the split; None: all.
    share: of training's time, all together and by the passes that the model makes.
    """

    num: int
    max_blocks: int | None
    share: float


def decide_validations(
    config: TrainConfig, *, num_blocks: int, every: int, num_steps: int, num_learned: int
) -> Validations:
    """Return how a run is validated.

    ``auto`` scores as many blocks as take a tenth of the time of training, at least one.

    Args:
        config: says ``trainer.max_val_blocks``.
        num_blocks: of the split.
        every: steps between two validations.
        num_steps: of the run.
        num_learned: blocks of training, over all steps.
    """
    if not num_blocks:
        return Validations(0, None, 0.0)
    num = 1 + num_steps // every + (num_steps % every > 0)
    training = num_learned / cost(config)  # in blocks of validation
    most = config.trainer.max_val_blocks
    if most == AUTO:
        most = max(1, int(MOST_OF_TRAINING * training / num))
    if not isinstance(most, int) or most >= num_blocks:
        most = None
    return Validations(num, most, num * (most or num_blocks) / training)


def cost(config: TrainConfig) -> float:
    """Return what a block of validation costs, in blocks of training: one pass of several.

    Training makes a forward pass, one back to the activations, one back to the weights unless they
    are frozen, and the forward pass again if activations are recomputed.
    """
    passes = 3 - (config.lora.rank is not None) + config.trainer.activation_checkpointing
    return 1 / passes


def as_recorded(config: TrainConfig, settings: Mapping[str, Any]) -> TrainConfig:
    """Return the config of a run that goes on, which is validated as its ``settings`` say.

    An earlier version, which recorded nothing of it, scored all blocks.

    Raises:
        UserError: the record is damaged.
    """
    if config.trainer.max_val_blocks != AUTO:
        return config
    decided = settings.get("trainer.max_val_blocks")
    return replace(config, trainer=replace(config.trainer, max_val_blocks=decided))
