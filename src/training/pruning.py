"""A run that others have left behind ends early."""

from collections.abc import Callable

import lightning as L

from src.training.module import TrainingModule

VAL_LOSS = "val/loss"
PRUNED = "pruned"  # how the reason of such an end begins

# (step, steps of the run, val/loss) -> why the run ends here; None: it goes on
FindBetter = Callable[[int, int, float], str | None]


class Pruning(L.Callback):
    """Ends the fit after a validation at which the run is behind others, in good order.

    Args:
        find_better: is told of each validation, and knows the other runs; on rank 0 only. The
            ranks hear from it what it said.
    """

    def __init__(self, find_better: FindBetter | None):
        self.find_better = find_better
        self.reason: str | None = None  # why the run ended early

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Ask whether to go on."""
        assert isinstance(module, TrainingModule)
        if trainer.state.fn != "fit":  # what the weights know that it begins with
            return
        reason = None
        if self.find_better is not None:
            value = module.latest[VAL_LOSS]
            reason = self.find_better(trainer.global_step, module.num_steps, value)
        reason = trainer.strategy.broadcast(reason)
        if reason is None:
            return
        self.reason = f"{PRUNED} at step {trainer.global_step}: {VAL_LOSS} {reason}"
        trainer.should_stop = True
