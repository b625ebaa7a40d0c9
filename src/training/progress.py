"""How far a run has come, what its validations cost, and where its time went."""

import logging
from collections.abc import Mapping
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_only

from src import phases
from src.progress import Progress, duration
from src.training.checkpoints import at_step_boundary
from src.training.module import TrainingModule
from src.training.plan import Plan

log = logging.getLogger(__name__)

MEASURED_SECONDS = 10.0  # of training, before what is left of it is told
MEASURED_STEPS = 3  # the first ones are slower


class RunProgress(L.Callback):
    """A bar for training, and one for each validation and for the test; lines elsewhere.

    It has the clock of the phases, too: its state in a checkpoint is their seconds until then.

    Args:
        shown: label -> figure and how it is written.
        plan: of the run.
    """

    def __init__(self, shown: Mapping[str, tuple[str, str]], plan: Plan) -> None:
        self.shown, self.plan = shown, plan
        self.training: Progress | None = None
        self.scoring: Progress | None = None
        self.outer = phases.OTHER  # the phase in which a split is scored
        self.tells_pace = False
        self.training_before = 0.0  # seconds of training in an earlier part of the run

    def state_dict(self) -> dict[str, Any]:
        """Return the seconds of each phase until now."""
        return {"seconds": phases.seconds()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the seconds of the interrupted run."""
        phases.add(state_dict["seconds"])

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Show the bar, from the resumed step on."""
        assert isinstance(module, TrainingModule)
        if not trainer.is_global_zero:
            return
        step = trainer.global_step
        self.training = Progress(module.num_steps, "training: step", initial=step, says_end=True)
        self.training.last_line = float("-inf")  # the first step is told at once
        self.training_before = phases.seconds().get("training", 0.0)
        self.tells_pace = step == 0 and self.plan.validations.num > 0

    @rank_zero_only
    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        """Move on by a step."""
        assert isinstance(module, TrainingModule)
        if self.training is None or not at_step_boundary(trainer):
            return
        self.training.add(trainer.global_step - self.training.done, self._figures(module))
        is_early = MEASURED_STEPS <= trainer.global_step <= module.num_steps / 2
        if self.tells_pace and is_early:
            self._tell_pace(trainer.global_step)

    def _tell_pace(self, step: int) -> None:
        """Say once how long training and validation take, as measured until now."""
        seconds = phases.seconds()
        training = seconds.get("training", 0.0) - self.training_before
        if training < MEASURED_SECONDS:
            return
        self.tells_pace = False
        whole = training / step * self.plan.num_steps
        # One has passed, before the first step; perhaps others.
        passed = 1 + step // self.plan.val_every_n_steps
        validation = seconds.get("validation", 0.0) / passed * self.plan.validations.num
        log.info(
            "pace       training takes about %s; its %d validations about %s beside it (%.0f%%)",
            duration(whole),
            self.plan.validations.num,
            duration(validation),
            100 * validation / whole,
        )

    def _figures(self, module: TrainingModule) -> dict[str, str]:
        return {
            label: form.format(module.latest[figure])
            for label, (figure, form) in self.shown.items()
            if figure in module.latest
        }

    @rank_zero_only
    def on_train_end(self, *_: Any) -> None:
        """Leave the bar as it stands."""
        self._close(whole=True)

    def on_validation_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Count the time as validation; show its bar."""
        self._start_scoring(trainer, "validation", "validating")

    def on_test_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Count the time as the test; show its bar."""
        self._start_scoring(trainer, "test", "scoring the test split")

    def _start_scoring(self, trainer: L.Trainer, split: str, title: str) -> None:
        self.outer = phases.enter(split)
        if trainer.is_global_zero:
            data: Any = trainer.datamodule  # type: ignore[attr-defined]
            self.blocks = [len(blocks) for blocks in data.by_source(split).values()]
            self.scoring = Progress(sum(self.blocks), title, "blocks")

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        outputs: Any,
        batch: Any,
        index: int,
        loader: int = 0,
    ) -> None:
        """Count the blocks of all ranks."""
        if self.scoring is not None:
            size = (
                len(next(iter(batch.values()))) * trainer.world_size
            )  # its first tensor is (B, ...)
            done = sum(self.blocks[:loader]) + min((index + 1) * size, self.blocks[loader])
            self.scoring.add(done - self.scoring.done)

    def on_test_batch_end(self, *arguments: Any) -> None:
        """Count the blocks of all ranks."""
        self.on_validation_batch_end(*arguments)

    def on_validation_end(self, *_: Any) -> None:
        """Go back to what was done before."""
        if self.scoring is not None:
            self.scoring.close()
            self.scoring = None
        phases.enter(self.outer)

    def on_test_end(self, *_: Any) -> None:
        """Go back to what was done before."""
        self.on_validation_end()

    def on_exception(self, *_: Any) -> None:
        """Leave the bars as they stand."""
        self._close(whole=False)

    def _close(self, whole: bool) -> None:
        for progress in (self.scoring, self.training):
            if progress is not None:
                progress.close(whole)
        self.scoring = self.training = None
