"""``run.json``: what a run is, for the day it goes on.

The folder may be a stranger's, or damaged. So the file is data and nothing else: every key in it is
one of our own settings, and every value stays the text, number or list that it is. Neither Hydra
nor an interpolation of OmegaConf reads any of it.
"""

import json
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from src.errors import UserError
from src.own_function import REWARD, check_typed, is_own
from src.training.config import PRECISIONS, TrainConfig

RECORD = "run.json"
RESULTS = ("model", "reward_model")  # folders of what a run has learned, by its objective
METRICS = "metrics.json"  # a run that holds it is finished
MOST_BYTES = 2**20
DECIDED = (
    "device",
    "devices",
    "precision",
    "threads",
    "corpus",
    "packing",
)  # in the settings, yet not asked
FREE = ("objective",)  # its names are those of its own class, which checks them
KINDS: dict[str, Any] = {
    **{"devices": int, "micro_batch_size": int, "threads": int},
    **{"device": str, "precision": str},
}
DEVICES = ("cpu", "cuda", "mps")

Values = dict[str, Any]


@dataclass(frozen=True)
class Record:
    """What ``run.json`` holds."""

    config: Values  # what a person asked for, nested as in ``conf/``
    settings: Values  # the same under dotted names, with what was decided where it was open
    machine: Values  # what was chosen for the machine
    job: str | None = None  # of SLURM, in which it began
    overrides: tuple[str, ...] = ()  # as typed: only ever compared


def read_record(folder: Path) -> Record:
    """Return the record of the run in ``folder``.

    Raises:
        UserError: there is none, it is damaged, or it is not of a run of ours; in one line.
    """
    path = folder / RECORD
    content = read_object(path)
    settings, machine = (_object(path, content, name) for name in ("settings", "machine"))
    config = _object(path, content, "config") if "config" in content else _asked(settings)
    if not config:
        raise UserError(
            f"{path} is damaged: its config is empty, so nobody knows the settings of the run: "
            f"start a new one"
        )
    job = content.get("job")
    check_keys(path, config)
    for name, kind in KINDS.items():
        value = machine.get(name)
        if value is not None and (type(value) is not kind or (kind is int and value < 1)):
            raise UserError(f"{path} is damaged, or not of a run: machine.{name}={value!r}")
    if machine.get("device", "cpu") not in DEVICES:
        raise UserError(f"{path} is damaged, or not of a run: no device {machine['device']!r}")
    if machine.get("precision", PRECISIONS[0]) not in PRECISIONS:
        raise UserError(f"{path} is damaged, or not of a run: no precision {machine['precision']}")
    typed = content.get("overrides")
    overrides = tuple(o for o in typed if isinstance(o, str)) if isinstance(typed, list) else ()
    return Record(config, settings, machine, job if isinstance(job, str) else None, overrides)


def is_finished(folder: Path) -> bool:
    """Whether the run has been scored: there is nothing left to do."""
    return (folder / METRICS).exists()


def read_machine(folder: Path) -> Values:
    """Return what was chosen for the machine when the run started; empty for a new run.

    Raises:
        UserError: as ``read_record`` does.
    """
    return read_record(folder).machine if (folder / RECORD).exists() else {}


def read_object(path: Path, most_bytes: int = MOST_BYTES) -> Values:
    """Return the keys and values of a file of ours in a folder that may be a stranger's.

    Raises:
        UserError: it cannot be read, is damaged, too large, or no file at all; in one line.
    """
    try:
        kind = path.lstat()
        if not stat.S_ISREG(kind.st_mode):
            raise UserError(f"{path} is no file of a run: it is a link, a folder or a device")
        if kind.st_size > most_bytes:
            raise UserError(f"{path} is no file of a run: {kind.st_size:,} bytes")
        content = json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:  # of JSON or UTF-8
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is damaged: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged, or not of a run: no object of keys and values")
    return content


def _object(path: Path, content: Values, name: str) -> Values:
    value = content.get(name)
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged, or not of a run: no object {name!r} in it")
    return value


def _asked(settings: Values) -> Values:
    """Return the config of a record of an older version, which has the decided values only."""
    nested: Values = {}
    for key, value in settings.items():
        if key in (*DECIDED, "trainer.devices", "micro_batch_size"):
            continue
        *groups, name = key.split(".")
        place = nested
        for group in groups:
            place = place.setdefault(group, {})
            if not isinstance(place, dict):
                place = {}
        place[name] = value
    return nested


def check_keys(path: Path, config: Values) -> None:
    """Check that every key is a setting of ours.

    Raises:
        UserError: names the first that is none.
    """
    kinds: dict[str, Any] = {field.name: field.type for field in fields(TrainConfig)}
    for key in sorted(config.keys() - {"resume"}):
        if key not in kinds:
            raise UserError(f"{path}: there is no setting {key!r}: not a run of this program")
        kind, value = kinds[key], config[key]
        if key not in FREE and not is_dataclass(kind):
            continue
        if not isinstance(value, dict):
            raise UserError(f"{path} is damaged: {key} is no object of keys and values")
        for name in value:
            if key in FREE:
                is_ours = re.fullmatch(r"[a-z][a-z0-9_]*", name) is not None
            else:
                is_ours = name in {field.name for field in fields(kind)}
            if not is_ours:
                raise UserError(
                    f"{path}: there is no setting {f'{key}.{name}'!r}: not a run of this program"
                )


def without(config: Values, key: str) -> None:
    """Remove what ``config`` says of a dotted key, of its parts, or of what it is a part of."""
    *groups, name = key.split(".")
    place: Any = config
    for group in groups:
        place = place.get(group)
        if not isinstance(place, dict):
            return
    place.pop(name, None)


def literal(value: Any) -> Any:
    """Return plain values as OmegaConf holds them: each text means itself."""
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", lambda m: m[1] * 2 + r"\${", value)
    if isinstance(value, list):
        return [literal(item) for item in value]
    if isinstance(value, dict):
        return {key: literal(item) for key, item in value.items()}
    return value


def check_functions(values: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Check that a function which ``values`` name stands among the overrides.

    Raises:
        UserError: another config names it, which may be a stranger's.
    """
    name = _function(values)
    if name is not None:
        check_typed(REWARD, name, overrides)


def _function(values: Mapping[str, Any]) -> str | None:
    """Return the dotted name of a person's function; None: there is none."""
    objective = values.get("objective")
    name = objective.get("reward") if isinstance(objective, dict) else None
    return name if is_own(name) else None
