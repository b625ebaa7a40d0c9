"""How a run will end and what it will leave, said before it begins."""

from src.files import disk
from src.training import kept
from src.training.config import TrainConfig
from src.training.plan import Plan


def ending(config: TrainConfig, plan: Plan, first_step: int) -> dict[str, str]:
    """Return lines of the report: when the run ends early, and which models it keeps.

    ``first_step`` is the one after which it begins.
    """
    lines = {}
    if (patience := config.trainer.patience) is not None:
        lines["patience"] = (
            f"ends early after {patience:,} validations in a row without a better figure; the "
            f"learning rate is that of {plan.num_steps:,} steps"
        )
    if (every := config.trainer.keep_every_n_steps) is not None:
        number = kept.num_kept(every, first_step, plan.num_steps)
        size = kept.num_bytes_kept(plan.step.num_parameters, number)
        lines["keeps"] = (
            f"the model of every {every:,} steps in {kept.MODELS}/: {number:,} folders, about "
            f"{disk.size_text(size)} on the disk"
        )
    return lines
