"""The best weights so far, as a folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L

from src.model.gpt2 import GPT2
from src.training.finite import check_weights
from src.training.module import TrainingModule
from src.training.objective import Best


class BestModel(L.Callback):
    """Keeps the best weights so far in a folder, so that even an interrupted run can be used.

    Args:
        folder: where they go.
        chosen_by: which figure decides.
        save: writes a plain model into the folder.
        rank: of this process; rank 0 writes.
    """

    def __init__(
        self, folder: Path, chosen_by: Best, save: Callable[[GPT2, Path], None], rank: int
    ):
        self.folder = folder
        self.chosen_by = chosen_by
        self.save = save
        self.rank = rank
        self.best: dict[str, float] = {}  # the figures of their validation, and step
        self.seen_step = -1  # of the last validation

    def state_dict(self) -> dict[str, Any]:
        """Return the figures of the best weights."""
        return {"best": self.best, "seen_step": self.seen_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the best weights of the interrupted run."""
        self.best = state_dict["best"]
        self.seen_step = state_dict.get("seen_step", -1)

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Write the weights if they are the best so far."""
        assert isinstance(module, TrainingModule)
        self.seen_step = trainer.global_step
        figure = self.chosen_by.figure
        if self.chosen_by.improves(module.latest[figure], self.best.get(figure)):
            figures = {k: v for k, v in module.latest.items() if k.startswith("val/")}
            self.best = {**figures, "step": trainer.global_step}
            self.write(module)

    def write(self, module: TrainingModule) -> None:
        """Write the weights as they are now; raise UserError if they are not finite."""
        check_weights(module)
        model = module.plain_model()
        if self.rank == 0:
            self.save(model, self.folder)
