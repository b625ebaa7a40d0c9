"""What a run tells of itself to whoever judges its model, and which runs a folder holds."""

import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from src.data.config import DataConfig
from src.errors import UserError
from src.files.json_file import read_settings

RECORD = "run.json"  # in a run folder, beside its model's
MODEL, MODEL_FILE = "model", "config.json"
KEPT = "models"  # in a run folder: the models that it kept on its way, a folder each
NAMES = tuple(field.name for field in fields(DataConfig))

OF_RANKINGS = ("reward", "dpo")  # objectives

# Keys of conf/data that do not say which rows there are.
NOT_ROWS = (
    *("block_size", "packing", "supervise", "join_turns", "corpus_dir", "num_workers"),
    *("prompt_loss_weight",),
)


def run_settings(folder: Path) -> dict[str, Any]:
    """Return the settings of the run that a model folder lies in; none if it lies in no run."""
    settings = _record(folder).get("settings")
    return settings if isinstance(settings, dict) else {}


def run_data(folder: Path) -> dict[str, Any]:
    """Return what the run of a model folder learned from, as in ``conf/data``; empty: unknown."""
    config = _record(folder).get("config")
    data = config.get("data") if isinstance(config, dict) else None
    if not isinstance(data, dict):  # a record of an older version
        settings = run_settings(folder).items()
        data = {key.removeprefix("data."): v for key, v in settings if key.startswith("data.")}
    return {name: data[name] for name in NAMES if name in data}


def first_of_conversations(folders: Mapping[str, Path]) -> str:
    """Return the name of the first model whose run learned from conversations.

    Raises:
        UserError: all runs learned from rankings, which hold no answer to compare with.
    """
    for name, folder in folders.items():
        if run_settings(folder).get("objective.name") not in OF_RANKINGS:
            return name
    raise UserError(
        f"model_path={next(iter(folders))}: its run learned from rankings, and not from "
        f"conversations: name some with data=... or a file of questions with prompts=FILE"
    )


def same_rows(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two runs read the same rows into the same splits."""
    names = (one.keys() | other.keys()) - set(NOT_ROWS)
    return all(one.get(name) == other.get(name) for name in names)


def _record(folder: Path) -> dict[str, Any]:
    for parent in folder.resolve().parents[:2]:
        if record := read_settings(parent / RECORD):
            return record
    return {}


def runs_in(name: str) -> tuple[list[str], list[str]]:
    """Return the runs with a model in a folder of several, such as a sweep's, and those without.

    Of a run's own ``models`` these are the models that it kept on its way. Both are empty for what
    is a model or a run itself, or no folder.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir() or is_run(folder):
        return [], []
    if folder.name == KEPT:
        kept = {str(path.parent) for path in folder.glob(f"*/{MODEL_FILE}")}
        return sorted(kept, key=_natural), []
    runs = {path.parent for path in folder.rglob(RECORD)}
    runs |= {path.parents[1] for path in folder.rglob(f"{MODEL}/{MODEL_FILE}")}
    ordered = sorted(runs, key=lambda run: _natural(str(run)))
    with_model = [str(run) for run in ordered if (run / MODEL / MODEL_FILE).exists()]
    return with_model, [str(run) for run in ordered if str(run) not in with_model]


def is_run(folder: Path) -> bool:
    """Whether a folder is a model's or a run's own."""
    return any((folder / name).exists() for name in (MODEL_FILE, f"{MODEL}/{MODEL_FILE}", RECORD))


def _natural(text: str) -> list[tuple[int, str]]:
    """Return a key that sorts ``run_2`` before ``run_10``."""
    return [(int(part or 0), rest) for part, rest in re.findall(r"(\d*)(\D*)", text)]
