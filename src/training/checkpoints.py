"""Checkpoints that survive a kill of the process at any moment.

The newest is ``checkpoints/last.ckpt``, the one before it ``previous.ckpt``. A checkpoint is only
taken between optimizer steps.
"""

import logging
import pickle
import zipfile
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from src import atomic
from src.errors import UserError
from src.hub import first_line
from src.training.module import TrainingModule
from src.training.ranks import gather_states, recut, restore, state_of_rank

log = logging.getLogger(__name__)

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
MODEL = "model."  # before the names of the model's weights, in TrainingModule's state


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the old file, flushes, then renames: old or new, never half of one."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write ``checkpoint``; the file that was there becomes ``previous.ckpt``."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        previous = path.with_name(PREVIOUS)
        with atomic.file(path, previous) as temporary, temporary.open("wb") as file:
            torch.save(checkpoint, file)


class Checkpoints(L.Callback):
    """Saves the whole training state every so many optimizer steps, and after each validation.

    A step that is validated is saved after its validation, so that a resumed run has validated
    exactly what an uninterrupted one has. The file also holds every rank's random generators and
    its share of the running sums.

    Args:
        run_folder: where ``checkpoints/`` is.
        every_n_steps: how often, in optimizer steps.
        val_every_n_steps: how often a validation follows; None: never.
    """

    def __init__(self, run_folder: Path, every_n_steps: int, val_every_n_steps: int | None):
        self.path = run_folder / "checkpoints" / LAST
        self.every_n_steps = every_n_steps
        self.val_every_n_steps = val_every_n_steps
        self.saved_step = -1
        self.restored: dict[str, Any] | None = None

    def save(self, trainer: L.Trainer) -> None:
        """Save now, unless this step has been saved."""
        if self.saved_step != trainer.global_step:
            trainer.save_checkpoint(self.path)
            self.saved_step = trainer.global_step

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        """Save at a due step boundary that no validation follows, and at the last."""
        if not at_step_boundary(trainer):
            return
        step = trainer.global_step
        due = step % self.every_n_steps == 0 or step == module.num_steps
        if due and (self.val_every_n_steps is None or step % self.val_every_n_steps):
            self.save(trainer)

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Save after a validation within the run."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.save(trainer)

    def on_save_checkpoint(
        self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add what differs from rank to rank: random generators and running sums."""
        assert isinstance(module, TrainingModule)
        checkpoint["ranks"] = gather_states(trainer, module)

    def on_load_checkpoint(
        self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the states until training starts: making the loaders draws random numbers too."""
        recut(checkpoint, trainer.accumulate_grad_batches)
        self.restored = state_of_rank(checkpoint["ranks"], trainer.global_rank, trainer.world_size)

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Restore the random generators and the running sums of the checkpoint."""
        assert isinstance(module, TrainingModule)
        if self.restored is None:
            return
        states, self.restored = self.restored, None
        self.saved_step = trainer.global_step
        restore(module, states)


def at_step_boundary(trainer: L.Trainer) -> bool:
    """Whether the batch that just ended completed an optimizer step."""
    done = trainer.fit_loop.epoch_loop.batch_idx + 1
    return done % trainer.accumulate_grad_batches == 0


def find_checkpoint(run_folder: Path) -> Path | None:
    """Return the newest whole checkpoint of a run, or None if it has saved none yet.

    Raises:
        UserError: all are damaged.
    """
    paths = [run_folder / "checkpoints" / name for name in (LAST, PREVIOUS)]
    saved = [path for path in paths if path.exists()]
    for path in saved:
        if _is_whole(path):
            return path
        log.warning("warning: %s is damaged; looking for the one before it", path)
    if saved:
        raise UserError(f"{run_folder} holds no whole checkpoint: start a new run, without resume")
    return None


def saved_step(checkpoint: Path) -> int:
    """Return the optimizer step at which a checkpoint was saved."""
    return int(torch.load(checkpoint, mmap=True, weights_only=True)["global_step"])


def resolve_checkpoint(name: str) -> Path:
    """Return the checkpoint file that ``checkpoint=`` means: a file, or a run folder's newest.

    Raises:
        UserError: there is none, or it is damaged.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        newest = find_checkpoint(path)
        if newest is None:
            raise UserError(f"checkpoint={name}: no checkpoint in it: name a run folder")
        return newest
    if not path.exists():
        raise UserError(f"checkpoint={name}: there is no such file or folder")
    if not _is_whole(path):
        raise UserError(f"checkpoint={name} is damaged, or no checkpoint")
    return path


def read_weights(checkpoint: Path) -> tuple[int, dict[str, Tensor]]:
    """Return the optimizer step of a checkpoint and its model's weights, under GPT2's names.

    Nothing but tensors and plain values is unpickled.

    Raises:
        UserError: it is no checkpoint of a training run of ours.
    """
    try:
        content = torch.load(checkpoint, map_location="cpu", mmap=True, weights_only=True)
        state, step = content["state_dict"], int(content["global_step"])
    except (RuntimeError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise UserError(
            f"checkpoint={checkpoint} is no checkpoint of a training run: {first_line(error)}"
        ) from error
    weights = {k.removeprefix(MODEL): v for k, v in state.items() if k.startswith(MODEL)}
    return step, weights


def _is_whole(path: Path) -> bool:
    """Whether every record of the file has its checksum; torch.load would not notice."""
    try:
        with zipfile.ZipFile(path) as file:
            return file.testzip() is None
    except (zipfile.BadZipFile, EOFError):
        return False
