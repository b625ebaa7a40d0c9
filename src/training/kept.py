"""The model of every so many steps, each in a folder of its own."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L

from src.files import atomic
from src.model.footprint import FLOAT32
from src.model.gpt2 import GPT2
from src.training.checkpoints import at_step_boundary
from src.training.finite import check_weights
from src.training.module import TrainingModule

MODELS = "models"  # in the run folder


def folder_of(step: int) -> str:
    """Return the name of the folder of a step's model; names are in the order of their steps."""
    return f"step_{step:06d}"


class KeptModels(L.Callback):
    """Writes a model folder after every so many optimizer steps.

    It stands before ``Checkpoints``: what a checkpoint goes on from has its folder already, so a
    run that was interrupted ends with the same folders.

    Args:
        run_folder: where ``models/`` is.
        every_n_steps: how often; None: never.
        save: writes a plain model into a folder.
        rank: of this process; rank 0 writes.
    """

    def __init__(
        self,
        run_folder: Path,
        every_n_steps: int | None,
        save: Callable[[GPT2, Path], None],
        rank: int,
    ):
        self.folder = run_folder / MODELS
        self.every_n_steps = every_n_steps
        self.save = save
        self.rank = rank

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        """Write the weights, if this step is one of them."""
        assert isinstance(module, TrainingModule)
        step = trainer.global_step
        if self.every_n_steps is None or step % self.every_n_steps or not at_step_boundary(trainer):
            return
        check_weights(module)
        model = module.plain_model()
        if self.rank == 0:
            self.save(model, self.folder / folder_of(step))


def num_kept(every_n_steps: int, first_step: int, num_steps: int) -> int:
    """Return how many models a run from ``first_step`` to ``num_steps`` keeps."""
    return num_steps // every_n_steps - first_step // every_n_steps


def num_bytes_kept(num_parameters: int, num_models: int) -> int:
    """Return about how many bytes so many models take on the disk, in float32."""
    return FLOAT32 * num_parameters * num_models


def folders_to_sweep(run_folder: Path) -> Iterator[Path]:
    """Yield the folders in which a killed process may have left a part of a kept model."""
    models = run_folder / MODELS
    if models.is_dir() and not models.is_symlink():
        yield models
        yield from (path for path in models.iterdir() if path.is_dir() and not path.is_symlink())


def sweep(run_folder: Path) -> None:
    """Remove what killed processes have left among the kept models."""
    for folder in folders_to_sweep(run_folder):
        atomic.sweep(folder)
