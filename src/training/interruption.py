"""A run that is told to stop stops after a step, with a checkpoint."""

import logging
import os
import signal
import time
from types import FrameType
from typing import Any

import lightning as L

from src.training.checkpoints import Checkpoints, at_step_boundary
from src.training.distributed import Agreement

log = logging.getLogger(__name__)


class Interrupted(Exception):
    """A signal stops the run."""

    def __init__(self, received: signal.Signals):
        super().__init__(received.name)
        self.signal = received


class Interruption(L.Callback):
    """SIGTERM and Ctrl-C while a run goes on, by raising ``Interrupted``.

    In training the first signal stops the run at the end of the step, after a save. A second
    signal, or one outside training, stops it at once. (Lightning's own stop would validate first,
    and exit with code 0 on SIGTERM.)

    Several ranks stop at the same step, whichever of them got the signal. At the end of each step
    they exchange what they received, and read the answer one step later, when it has arrived.
    """

    # torchrun passes on the Ctrl-C that the terminal has sent to every process already.
    ECHO_SECONDS = 1.0 if "TORCHELASTIC_RUN_ID" in os.environ else 0.0

    def __init__(self, checkpoints: Checkpoints):
        self.checkpoints = checkpoints
        self.agreement: Agreement | None = None  # where there are several ranks
        self.training = False
        self.received: signal.Signals | None = None
        self.since = 0.0
        self.before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            self.before[number] = signal.signal(number, self._handle)

    def __exit__(self, *_: Any) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        received = signal.Signals(number)
        if received == self.received and time.monotonic() - self.since < self.ECHO_SECONDS:
            return
        if not self.training or self.received is not None:
            log.warning("%s: stopped", received.name)
            raise Interrupted(received)
        self.received, self.since = received, time.monotonic()
        log.warning("%s: saving after this step, then stopping", received.name)

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Take the two signals from Lightning, which has put itself before us."""
        self.training = True
        for number in self.before:
            signal.signal(number, self._handle)
        if trainer.world_size > 1:
            self.agreement = Agreement()
            # Lightning would wait for the device at each micro-batch to do the same.
            loop: Any = trainer.fit_loop.epoch_loop
            loop._broadcast_sigterm_tensor = lambda: None

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        """Save and stop at the next step boundary."""
        if not at_step_boundary(trainer):
            return
        received = self.received
        if self.agreement is not None:
            received = self.agreement.exchange(received)
        if received is not None:
            self.checkpoints.save(trainer)
            log.warning("stopped at step %d", trainer.global_step)
            raise Interrupted(received)

    def on_train_end(self, *_: Any) -> None:
        """Stop if a signal came after the last step."""
        self.training = False
        received = self.received
        if self.agreement is not None:
            self.agreement.exchange(received)
            received = self.agreement.exchange(None)
            self.agreement = None
        if received is not None:
            raise Interrupted(received)
