"""The figures of training and its speed, logged at every so many steps."""

import math
import time
from typing import Any

import lightning as L
import psutil
import torch

from src.training.checkpoints import at_step_boundary
from src.training.loggers import flush
from src.training.memory import GIB
from src.training.module import TrainingModule

MEMORY = "perf/memory_gib"


class TrainingLog(L.Callback):
    """Logs the training figures, and how fast it goes, at every so many optimizer steps.

    Speed is in real tokens a second: padding is not counted, nor is time spent on validation.
    """

    TOTALS = ("train_seconds", "num_tokens", "logged_seconds", "logged_tokens")

    def __init__(self) -> None:
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
        checkpoint["latest"] = {
            name: value
            for name, value in module.latest.items()
            if math.isfinite(value) and name != MEMORY  # that is this process's own
        }
        if trainer.is_global_zero:
            checkpoint |= flush(trainer.loggers)

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
        figures[MEMORY] = memory_in_use(module.device) / GIB
        figures["tokens"] = float(self.num_tokens)
        self.logged_seconds, self.logged_tokens = self.train_seconds, self.num_tokens
        if not module.learns_from_rows:  # what it learns from is made now, which is training too
            self.started = time.perf_counter()
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


def memory_in_use(device: torch.device) -> int:
    """Return bytes: what tensors took of a CUDA device at most, else what the process takes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    return int(psutil.Process().memory_info().rss)
