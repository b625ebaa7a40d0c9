"""A run that is told to stop stops after a step, with a checkpoint."""

import logging
import signal
from typing import Any

import lightning as L

from src import signals
from src.training.checkpoints import Checkpoints, at_step_boundary
from src.training.distributed import Agreement

log = logging.getLogger(__name__)


class Interruption(L.Callback):
    """Raises ``signals.Stop`` at the end of the step in which a signal came.

    Validation and save that are due at that step come first: the run that goes on is the same as
    one that was not interrupted. A second signal does not wait (see ``src.signals``).

    Several ranks stop at the same step, whichever of them got the signal. At the end of each step
    they exchange what they received, and read the answer one step later, when it has arrived.
    """

    def __init__(self, checkpoints: Checkpoints):
        self.checkpoints = checkpoints
        self.agreement: Agreement | None = None  # where there are several ranks

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Let a signal wait for the end of the step."""
        signals.defer(True)
        if trainer.world_size > 1:
            self.agreement = Agreement()
            # Lightning would wait for the device at each micro-batch to do the same.
            loop: Any = trainer.fit_loop.epoch_loop
            loop._broadcast_sigterm_tensor = lambda: None

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        """Save and stop at the next step boundary, unless a validation comes first."""
        if not at_step_boundary(trainer):
            return
        received = signals.received()
        if self.agreement is not None:
            received = self.agreement.exchange(received)
        every = self.checkpoints.val_every_n_steps
        if received is not None and (every is None or trainer.global_step % every):
            self._stop(trainer, received)

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Stop after a validation within the run; it has been saved."""
        received = self._agreed() if trainer.state.fn == "fit" else None
        if received is not None:
            self._stop(trainer, received)

    def on_train_end(self, *_: Any) -> None:
        """Stop if a signal came after the last step."""
        received = self._agreed()
        self.agreement = None
        signals.defer(False)
        if received is not None:
            raise signals.Stop(received)

    def _agreed(self) -> signal.Signals | None:
        """Return what any rank has received until now."""
        received = signals.received()
        if self.agreement is None:
            return received
        before = self.agreement.exchange(received)
        return self.agreement.exchange(before or received) or before

    def _stop(self, trainer: L.Trainer, received: signal.Signals) -> None:
        self.checkpoints.save(trainer)
        log.warning("%s: stopped at step %d", received.name, trainer.global_step)
        raise signals.Stop(received)
