"""How far a run has come, written into its ``status.json`` while it trains."""

import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_only

from src.training.best import BestModel
from src.training.checkpoints import at_step_boundary
from src.training.module import TrainingModule
from src.training.status import StatusFile

VAL_LOSS = "val/loss"


class StatusUpdates(L.Callback):
    """Writes step, validation loss and time left: now and then, and after each validation.

    Args:
        folder: of the run.
        best: knows the figures of the best weights so far.
    """

    def __init__(self, folder: Path, best: BestModel):
        self.file = StatusFile(folder)
        self.best = best
        self.first_step = 0  # of this process
        self.began = 0.0

    @rank_zero_only
    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Start the clock, and say how many steps there are."""
        self.first_step, self.began = trainer.global_step, time.monotonic()
        self._write(trainer, module)

    @rank_zero_only
    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        """Say how far it is, if the last time was long enough ago."""
        if at_step_boundary(trainer) and self.file.is_due:
            self._write(trainer, module)

    @rank_zero_only
    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Say what was found."""
        self._write(trainer, module)

    @rank_zero_only
    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Say how far it came."""
        self._write(trainer, module)

    @rank_zero_only
    def on_exception(
        self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException
    ) -> None:
        """Say how far it came."""
        self._write(trainer, module)

    def _write(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        assert isinstance(module, TrainingModule)
        step = trainer.global_step
        seconds_left = None
        if trainer.state.fn == "fit" and step > self.first_step:
            pace = (time.monotonic() - self.began) / (step - self.first_step)
            seconds_left = round((module.num_steps - step) * pace, 1)
        self.file.write(
            step=step,
            num_steps=module.num_steps,
            val_loss=module.latest.get(VAL_LOSS),
            best_val_loss=self.best.best.get(VAL_LOSS),
            seconds_left=seconds_left,
        )
