"""The figures of training and its speed, logged at every so many steps."""

import math
import time
from typing import Any

import lightning as L

from src.training.checkpoints import at_step_boundary
from src.training.events import SIZES, OneFileLogger
from src.training.history import History
from src.training.module import TrainingModule


class TrainingLog(L.Callback):
    """Logs the training figures, and how fast it goes, at every so many optimizer steps.

    Speed is in real tokens a second: padding is not counted, nor is time spent on validation.
    """

    TOTALS = ("train_seconds", "num_tokens", "logged_seconds", "logged_tokens")

    def __init__(self, steps_per_epoch: int) -> None:
        self.steps_per_epoch = steps_per_epoch
        self.train_seconds = 0.0  # whole run, earlier interrupted parts included
        self.num_tokens = 0
        self.logged_seconds = 0.0  # the same two at the last log
        self.logged_tokens = 0
        self.started: float | None = None

    @property
    def tokens_per_second(self) -> float:
        """Average over the whole run."""
        return self.num_tokens / self.train_seconds if self.train_seconds else 0.0

    def totals(self) -> tuple[int, float]:
        """Return the tokens trained on until now, and the seconds of training."""
        running = 0.0 if self.started is None else time.perf_counter() - self.started
        return self.num_tokens, self.train_seconds + running

    def state_dict(self) -> dict[str, Any]:
        """Return the totals until now, so that a resumed run goes on counting."""
        if self.started is not None:
            self._stop_clock()
            self.started = time.perf_counter()
        return {name: getattr(self, name) for name in self.TOTALS}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the totals of the interrupted run."""
        for name in self.TOTALS:
            setattr(self, name, state_dict[name])

    def on_save_checkpoint(
        self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the figures logged last, and how much of the points is logged until now."""
        assert isinstance(module, TrainingModule)
        # The norm of a gradient that was skipped is not finite, and is nothing to keep.
        checkpoint["latest"] = {k: v for k, v in module.latest.items() if math.isfinite(v)}
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                if isinstance(logger, OneFileLogger):
                    checkpoint[SIZES] = logger.sizes()
                elif isinstance(logger, History):
                    logger.flush()

    def on_load_checkpoint(
        self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take the figures logged last."""
        assert isinstance(module, TrainingModule)
        module.latest |= checkpoint.get("latest", {})

    def on_train_batch_start(self, *_: Any) -> None:
        """Start the clock; it stands still outside training batches."""
        if self.started is None:
            self.started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        """Count this micro-batch; log at a due step, and at the last."""
        assert isinstance(module, TrainingModule)
        self.num_tokens += batch["num_tokens"]
        step = trainer.global_step
        if not at_step_boundary(trainer):
            return
        if step % module.log_every_n_steps and step != module.num_steps:
            return
        figures = module.take_training_figures()
        self._stop_clock()
        seconds = self.train_seconds - self.logged_seconds
        figures["perf/tokens_per_second"] = (self.num_tokens - self.logged_tokens) / seconds
        figures["epoch"] = step / self.steps_per_epoch
        self.logged_seconds, self.logged_tokens = self.train_seconds, self.num_tokens
        module.log_figures(figures)

    def on_validation_start(self, *_: Any) -> None:
        """Stop the clock."""
        self._stop_clock()

    def on_train_end(self, *_: Any) -> None:
        """Stop the clock."""
        self._stop_clock()

    def _stop_clock(self) -> None:
        if self.started is not None:
            self.train_seconds += time.perf_counter() - self.started
            self.started = None
