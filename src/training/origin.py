"""What ``continue_from`` means: the newest whole checkpoint of a run, or a model folder."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src.errors import UserError
from src.training.checkpoint_file import TRAILER, read
from src.training.checkpoints import find_checkpoint
from src.training.config import TrainConfig
from src.training.record import RECORD, RESULTS, Values, is_finished, read_record

CONFIG = "config.json"  # of a model folder


@dataclass(frozen=True)
class Origin:
    """What a run goes on from.

    Attributes:
        name: as it is in the config.
        model: its model folder, which holds its tokenizer; None: it has none.
        checkpoint: None: the weights of ``model`` alone are taken.
        step: of the checkpoint; 0 without one.
        num_steps: that its run was to have; None: unknown.
        settings: of its run, under dotted names; empty where there is no run.
        why_alone: why only the weights are taken, as the end of a sentence.
    """

    name: str
    model: Path | None
    checkpoint: Path | None = None
    step: int = 0
    num_steps: int | None = None
    settings: Values | None = None
    why_alone: str = ""

    def facts(self) -> dict[str, Any]:
        """Return what a run that begins again must find as it was, under names of settings."""
        facts: dict[str, Any] = {
            "continue_from.step": self.step,
            "continue_from.moments": bool(self.checkpoint),
        }
        if self.checkpoint is not None:
            facts["continue_from.checksum"] = _checksum(self.checkpoint)
        return facts

    def describe(self, corpus: str) -> str:
        """Return what is taken, for the report; ``corpus`` is the key of this run's rows."""
        if self.checkpoint is None:
            return f"from {self.name}, from its weights alone: {self.why_alone}; at step 0"
        of = f" of {self.num_steps:,}" if self.num_steps is not None else ""
        text = f"from {self.name} at step {self.step:,}{of}, with its moments"
        if (self.settings or {}).get("corpus", corpus) != corpus:
            text += f"; the rows are others: it goes on at step {self.step:,} of their order"
        return text


def settings_of(name: str) -> Values:
    """Return the settings with which a run goes on from ``name``, but for what a person sets.

    They are those of the run; for a model folder that no run of ours has written, its name.

    Raises:
        UserError: there is nothing, or the record of the run is damaged.
    """
    folder = _folder(name)
    run = folder if _is_run(folder) else run_of_model(folder)
    if run is None:
        return {"model": {"pretrained": name, "tokenizer": name}}
    values = read_record(run).config
    for key in ("resume", "continue_from", "name"):
        values.pop(key, None)
    return values


def find_origin(name: str) -> Origin:
    """Return what ``continue_from`` means: the newest whole checkpoint of a run, or a model.

    Raises:
        UserError: there is nothing to go on from, or all of it is damaged.
    """
    folder = _folder(name)
    if not _is_run(folder):
        return Origin(name, folder, why_alone="a model folder has no more")
    settings = read_record(folder).settings
    models = [folder / name for name in RESULTS if (folder / name / CONFIG).is_file()]
    model = models[0] if models else None
    checkpoint = find_checkpoint(
        folder, f"go on from its weights alone: continue_from={model or folder / RESULTS[0]}"
    )
    if checkpoint is None:
        if model is None:
            raise UserError(f"continue_from={name}: that run has neither a checkpoint nor a model")
        why = "its optimizer's state was dropped when it finished (trainer.keep_optimizer=true)"
        why = why if is_finished(folder) else "it has saved no checkpoint"
        return Origin(name, model, settings=settings, why_alone=why)
    content = load_checkpoint(checkpoint)
    return Origin(
        name, model, checkpoint, content["global_step"], content.get("num_steps"), settings
    )


def origin_of(config: TrainConfig, run_folder: Path) -> Origin | None:
    """Return what the run in ``run_folder`` goes on from, as far as it still needs it.

    A run that has saved a checkpoint goes on from its own; only adapters need the weights that
    they learn beside.

    Raises:
        UserError: from ``find_origin``.
    """
    if config.continue_from is None:
        return None
    if config.resume is not None and find_checkpoint(run_folder) is not None:
        had_moments = read_record(run_folder).settings.get("continue_from.moments")
        if config.lora.rank is None or had_moments:
            return None
    return find_origin(config.continue_from)


def check_settings(origin: Origin | None, config: TrainConfig) -> None:
    """Check that moments and adapters mean the same in a run of ``config``, if it has an origin.

    Raises:
        UserError: names the setting.
    """
    if origin is not None:
        _check_objective(origin, config.objective.name)
    if origin is None or origin.checkpoint is None:
        return
    before = origin.settings or {}
    if (before.get("trainer.strategy") == "fsdp") != (config.trainer.strategy == "fsdp"):
        raise UserError(
            f"continue_from={origin.name}: that run had trainer.strategy="
            f"{before.get('trainer.strategy')}, and FSDP keeps moments in an order of its own: set "
            f"the same here, or go on from its weights alone: continue_from={origin.model}"
        )
    alpha = config.lora.alpha
    if config.lora.rank is not None and before.get("lora.alpha", alpha) != alpha:
        raise UserError(
            f"continue_from={origin.name}: that run had lora.alpha={before['lora.alpha']}, not "
            f"{alpha}: leave it as it was"
        )


def _check_objective(origin: Origin, name: str) -> None:
    """Raise UserError if the run that an origin is, or is the model of, had another objective."""
    run = run_of_model(Path(origin.name).expanduser())
    settings = origin.settings or (read_record(run).settings if run else {})
    before = settings.get("objective.name", name)
    if before == name:
        return
    way = "start a new run"
    if origin.model is not None and origin.model.name not in RESULTS[1:]:
        way += f" that begins with its model: model.pretrained={origin.model}"
    raise UserError(
        f"continue_from={origin.name}: that run had objective={before}, not {name}: {way}"
    )


def check_length(origin: Origin | None, num_steps: int) -> None:
    """Raise UserError if a run of ``num_steps`` ends where its origin stands, or before."""
    if origin is not None and origin.step >= num_steps:
        raise UserError(
            f"continue_from={origin.name} is at step {origin.step}, and this run ends at step "
            f"{num_steps}: max_steps counts from the beginning: raise it above {origin.step}"
        )


def run_of_model(folder: Path) -> Path | None:
    """Return the run of ours that has written a model folder, ``model`` or one in ``models``."""
    folder = folder.absolute()
    run = folder.parent if folder.name in RESULTS else folder.parents[1]
    is_ours = folder.name in RESULTS or folder.parent.name == "models"
    return run if is_ours and _is_run(run) else None


def _folder(name: str) -> Path:
    path = Path(name).expanduser()
    if path.is_file():
        raise UserError(f"continue_from={name} is a file: name the folder of a run, or of a model")
    if not path.is_dir():
        raise UserError(
            f"continue_from={name}: there is no such folder: name that of a run, or of a model"
        )
    if not _is_run(path) and not (path / CONFIG).is_file():
        raise UserError(
            f"continue_from={name} holds neither a run ({RECORD}) nor a model ({CONFIG})"
        )
    return path


def _is_run(folder: Path) -> bool:
    return os.path.lexists(folder / RECORD)


def load_checkpoint(checkpoint: Path) -> dict[str, Any]:
    """Return the content of a checkpoint, plain values and tensors read when they are used.

    Raises:
        UserError: it is damaged, or none of a run of ours.
    """

    def load(path: Path) -> dict[str, Any]:
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        step, state = content["global_step"], content["state_dict"]
        if type(step) is not int or not all(isinstance(x, Tensor) for x in state.values()):
            raise TypeError("no step, or no weights")
        return {**content, "state_dict": {str(name): tensor for name, tensor in state.items()}}

    content: dict[str, Any] = read(checkpoint, load)
    return content


def _checksum(checkpoint: Path) -> str:
    """Return the SHA-256 that a checkpoint ends with, which has been checked."""
    with checkpoint.open("rb") as file:
        file.seek(-TRAILER, os.SEEK_END)
        return file.read().decode("ascii", "replace").split()[-1]
