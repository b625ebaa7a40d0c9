"""Checkpoints that survive a kill of the process at any moment.

The newest is ``checkpoints/last.ckpt``, the one before it ``previous.ckpt``. A checkpoint is only
taken between optimizer steps.
"""

import logging
import os
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from src.errors import UserError
from src.training.checkpoint_file import PREVIOUS, find_damage, read
from src.training.finite import check_weights
from src.training.module import TrainingModule
from src.training.ranks import gather_states, recut, restore, state_of_rank
from src.wording.command_line import option
from src.wording.nearest import path_question

log = logging.getLogger(__name__)

LAST = "last.ckpt"
MODEL = "model."  # before the names of the model's weights, in TrainingModule's state


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
        """Save now, unless this step has been saved; raise UserError if weights are not finite."""
        if self.saved_step != trainer.global_step:
            module: Any = trainer.lightning_module
            check_weights(module)
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
        """Add what differs from rank to rank, random generators and sums, and the run's length."""
        assert isinstance(module, TrainingModule)
        checkpoint["num_steps"] = module.num_steps
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


def find_checkpoint(
    run_folder: Path, way_out: str = "start a new run, without resume"
) -> Path | None:
    """Return the newest whole checkpoint of a run, or None if it has saved none yet.

    ``way_out`` is what to do without one.

    Raises:
        UserError: all are damaged.
    """
    folder = run_folder / "checkpoints"
    saved = [path for name in (LAST, PREVIOUS) if os.path.lexists(path := folder / name)]
    damages = []
    for path in saved:
        damage = find_damage(path)
        if damage is None:
            return path
        damages.append(f"{path.name} {damage}")
        if path != saved[-1]:
            log.warning("warning: %s %s; looking for the one before it", path, damage)
    if saved:
        raise UserError(f"{run_folder} holds no whole checkpoint ({'; '.join(damages)}): {way_out}")
    return None


def saved_step(checkpoint: Path) -> int:
    """Return the optimizer step at which a checkpoint was saved.

    Raises:
        UserError: it is damaged.
    """
    return read(checkpoint, lambda path: int(_load(path)["global_step"]))


def resolve_checkpoint(name: str) -> Path:
    """Return the checkpoint file that ``checkpoint=`` means: a file, or a run folder's newest.

    Raises:
        UserError: there is none, or it is damaged.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        newest = find_checkpoint(path)
        if newest is None:
            raise UserError(f"checkpoint={name}: no checkpoint in it: {_instead(path)}")
        return newest
    if not path.exists():
        raise UserError(f"checkpoint={name}: there is no such file or folder{path_question(name)}")
    if damage := find_damage(path):
        other = path.with_name(PREVIOUS)
        is_whole = path.name == LAST and other.exists() and not find_damage(other)
        hint = f"; the one before it is whole: {option('checkpoint', other)}" if is_whole else ""
        raise UserError(f"checkpoint={name} {damage}{hint}")
    return path


def _instead(folder: Path) -> str:
    """Return what to name in place of a folder without a checkpoint."""
    if not (folder / "model").is_dir():
        return "name a run folder"
    return (
        f"a finished run drops them, unless trainer.keep_optimizer=true; its best weights are "
        f"{option('model_path', folder / 'model')}"
    )


def read_weights(checkpoint: Path) -> tuple[int, dict[str, Tensor]]:
    """Return the optimizer step of a checkpoint and its model's weights, under GPT2's names.

    Nothing but tensors and plain values is unpickled.

    Raises:
        UserError: it is damaged, or no checkpoint of a training run of ours.
    """

    def load(path: Path) -> tuple[int, dict[str, Tensor]]:
        content = _load(path)
        state = content["state_dict"]
        weights = {k.removeprefix(MODEL): v for k, v in state.items() if k.startswith(MODEL)}
        return int(content["global_step"]), weights

    return read(checkpoint, load)


def _load(path: Path) -> Any:
    return torch.load(path, map_location="cpu", mmap=True, weights_only=True)
