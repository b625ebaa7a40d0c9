"""The best weights so far, as a folder; and whether it is time to stop."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L

from src.errors import UserError
from src.files.checksums import changes
from src.model.gpt2 import GPT2
from src.model.pretrained_config import FILE
from src.model.weights_file import is_weights
from src.training.finite import check_weights
from src.training.module import TrainingModule
from src.training.objective import Best

log = logging.getLogger(__name__)


class BestModel(L.Callback):
    """Keeps the best weights so far in a folder, so that even an interrupted run can be used.

    Args:
        folder: where they go.
        chosen_by: which figure decides.
        save: writes a plain model into the folder.
        load: reads what ``save`` has written.
        rank: of this process; rank 0 writes.
        patience: validations in a row without a better figure, after which training ends; None: it
            goes on to its last step. The learning rate stays that of the whole plan.
    """

    def __init__(
        self,
        folder: Path,
        chosen_by: Best,
        save: Callable[[GPT2, Path], None],
        load: Callable[[Path], GPT2],
        rank: int,
        patience: int | None = None,
    ):
        self.folder = folder
        self.chosen_by = chosen_by
        self.save = save
        self.load = load
        self.rank = rank
        self.patience = patience
        self.best: dict[str, float] = {}  # the figures of their validation, and step
        self.seen_step = -1  # of the last validation
        self.history: list[tuple[int, float]] = []  # of each validation: step and figure

    @property
    def num_in_vain(self) -> int:
        """Validations since the best one."""
        if not self.best:
            return 0
        return sum(step > self.best["step"] for step, _ in self.history)

    @property
    def is_over(self) -> bool:
        """Whether patience has come to its end; the same on all ranks, as the figures are."""
        return self.patience is not None and self.num_in_vain >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """Return the figures of the best weights, and how it went until now."""
        return {"best": self.best, "seen_step": self.seen_step, "history": list(self.history)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the best weights of the interrupted run."""
        self.best = state_dict["best"]
        self.seen_step = state_dict.get("seen_step", -1)
        self.history = [(int(step), value) for step, value in state_dict.get("history", ())]

    def on_fit_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Look whether the folder of the interrupted run is what it was.

        Beside weights that are whole it is written again, but for what a person may have edited.
        Weights that are lost are forgotten: the next validation finds the best ones. Both are said.
        """
        if not self.best:  # a run that begins
            return
        try:
            model, changed = self._read()
        except UserError as error:
            log.warning(
                "warning: the best weights, of step %d, are lost: %s: those of the next validation "
                "take their place",
                self.best["step"],
                error,
            )
            self.best, self.seen_step = {}, -1
            return
        trainer.strategy.barrier()  # all ranks have read it
        if changed and self.rank == 0:
            own: Any = module.model  # with the dropout that config.json is to name
            model.config = replace(model.config, dropout=own.config.dropout)
            self.save(model, self.folder)
            if again := sorted(set(changed) - set(self._changes())):
                log.warning("warning: %s: %s: written again", self.folder, ", ".join(again))

    def _read(self) -> tuple[GPT2, list[str]]:
        """Return the weights of the folder, and the names of other files that have changed.

        Raises:
            UserError: the weights, or their shape, are not what they were.
        """
        if not self.folder.is_dir():  # its name would be looked up on the hub
            raise UserError(f"{self.folder} is gone")
        changed = self._changes()
        if FILE in changed:
            raise UserError(f"{self.folder / FILE} is not as it was written")
        return self.load(self.folder), changed

    def _changes(self) -> list[str]:
        return changes(self.folder, lambda name: not is_weights(name))  # which know their checksum

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Take no further step in a run that was over when it was interrupted."""
        trainer.should_stop = trainer.should_stop or self.is_over

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Write the weights if they are the best so far; end training if it is in vain."""
        assert isinstance(module, TrainingModule)
        self.seen_step = trainer.global_step
        figure = self.chosen_by.figure
        # A run that began again has validated its first weights again.
        earlier = [(step, value) for step, value in self.history if step < self.seen_step]
        self.history = [*earlier, (self.seen_step, module.latest[figure])]
        if self.chosen_by.improves(module.latest[figure], self.best.get(figure)):
            figures = {k: v for k, v in module.latest.items() if k.startswith("val/")}
            self.best = {**figures, "step": trainer.global_step}
            self.write(module)
        if trainer.state.fn == "fit" and self.is_over:
            trainer.should_stop = True

    def write(self, module: TrainingModule) -> None:
        """Write the weights as they are now; raise UserError if they are not finite."""
        check_weights(module)
        model = module.plain_model()
        if self.rank == 0:
            self.save(model, self.folder)


def check_patience(patience: int | None, validates: bool) -> None:
    """Check that a run that may end early has what tells it to.

    Raises:
        UserError: it has no validation rows.
    """
    if patience is not None and not validates:
        raise UserError(
            f"trainer.patience={patience} counts validations, and there are no validation rows: "
            f"raise data.validation_fraction, or set it to null"
        )
