"""How far a run has come: a bar at a terminal, lines elsewhere."""

import logging
import sys
import time
from collections.abc import Mapping
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_only
from tqdm import tqdm

from src.training.checkpoints import at_step_boundary
from src.training.module import TrainingModule

log = logging.getLogger(__name__)


class Progress(L.Callback):
    """A bar over the optimizer steps; a line now and then where there is no terminal.

    Args:
        shown: label -> figure and how it is written.
    """

    SECONDS_BETWEEN_LINES = 10.0

    def __init__(self, shown: Mapping[str, tuple[str, str]]) -> None:
        self.shown = shown
        self.bar: tqdm | None = None
        self.last_line = 0.0

    @rank_zero_only
    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Show the bar, from the resumed step on."""
        assert isinstance(module, TrainingModule)
        if sys.stderr.isatty():
            self.bar = tqdm(
                total=module.num_steps,
                initial=trainer.global_step,
                desc="training",
                unit="step",
                dynamic_ncols=True,
            )

    @rank_zero_only
    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        """Move on by a step."""
        assert isinstance(module, TrainingModule)
        if not at_step_boundary(trainer):
            return
        step, now = trainer.global_step, time.monotonic()
        if self.bar is not None:
            self.bar.set_postfix_str(self._figures(module), refresh=False)
            self.bar.update(step - self.bar.n)
        elif now - self.last_line > self.SECONDS_BETWEEN_LINES or step == module.num_steps:
            self.last_line = now
            log.info("step %d/%d  %s", step, module.num_steps, self._figures(module))

    def _figures(self, module: TrainingModule) -> str:
        return "  ".join(
            f"{label} {form.format(module.latest[figure])}"
            for label, (figure, form) in self.shown.items()
            if figure in module.latest
        )

    def on_train_end(self, *_: Any) -> None:
        """Leave the bar as it stands."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None
