"""The runs in a folder: what each of them is, how far it came, and what it takes on the disk.

The folders may be damaged, another version's, or a stranger's: what cannot be read is said of that
run, and the others are listed all the same.
"""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from src.errors import UserError
from src.files.json_file import is_number, read_settings
from src.training.record import RECORD, read_object, read_record
from src.training.status import STATUS, Status, read_status

METRICS = "metrics.json"
MARKS = {RECORD, STATUS, METRICS, ".hydra", "train.log", "checkpoints"}  # of a run folder
SWEEP = "sweep.json"
MOST_BYTES = 2**24  # of it
SWEEP_MARKS = {SWEEP, "multirun.yaml", "results.csv", "rlhf.json"}  # of what holds runs
BROKEN, NOT_BEGUN = "broken", "not begun"
UNFINISHED = "unfinished"  # by a version that wrote no status
MOST_LEVELS = 4  # of folders in folders
DATE = re.compile(r"(\d{4}-\d\d-\d\d)_(\d\d-\d\d-\d\d)(?:_(.+))?", re.S)


@dataclass(frozen=True)
class Run:
    """One run, as its folder shows it; None where it does not say.

    Attributes:
        folder: of the run.
        started: when; local time.
        model: the name of its weights, or layers x width of random ones.
        data: the name of its rows.
        step: optimizer steps that are done, of ``num_steps``.
        val_loss: of the weights that it keeps.
        exact_match: the share of the test prompts that are answered to the letter.
        state: that of ``status.json``, or killed, broken, not begun, unfinished.
        reason: why it failed or is broken.
        num_bytes: of all files.
    """

    folder: Path
    started: datetime
    model: str | None
    data: str | None
    step: int | None
    num_steps: int | None
    val_loss: float | None
    exact_match: float | None
    state: str
    reason: str | None
    num_bytes: int


@dataclass(frozen=True)
class Sweep:
    """A folder of runs that were started together, in the order of their numbers.

    Attributes:
        folder: of the sweep.
        started: when; local time.
        jobs: those that have begun.
        num_jobs: how many there will be.
    """

    folder: Path
    started: datetime
    jobs: list[Run] = field(default_factory=list)
    num_jobs: int = 0


def find_runs(folder: Path) -> list[Run | Sweep]:
    """Return the runs and sweeps in ``folder``, the newest first; or the one that it is itself.

    Raises:
        UserError: ``folder`` cannot be read.
    """
    try:
        names = {entry.name for entry in os.scandir(folder)}
    except OSError as error:
        raise UserError(f"folder={folder}: {error.strerror or error}") from error
    if names & MARKS and not names & SWEEP_MARKS:
        return [_run(folder)]
    if names & SWEEP_MARKS:
        found: Iterable[Run | Sweep] = [_sweep(folder)]
    else:
        found = _below(folder, MOST_LEVELS)
    return sorted(found, key=lambda entry: (entry.started, entry.folder.name), reverse=True)


def _below(folder: Path, levels: int) -> list[Run | Sweep]:
    found: list[Run | Sweep] = []
    for path, names in _folders(folder):
        if names & SWEEP_MARKS or _is_unmarked_sweep(path, names):
            found.append(_sweep(path))
        elif names & MARKS:
            found.append(_run(path))
        elif levels > 1:
            found += _below(path, levels - 1)
    return found


def _is_unmarked_sweep(folder: Path, names: set[str]) -> bool:
    """Whether a folder named as ours are holds runs: a sweep that has just begun, say."""
    if names & MARKS or DATE.fullmatch(folder.name) is None:
        return False
    return any(inner & MARKS for _, inner in _folders(folder))


def _folders(folder: Path) -> list[tuple[Path, set[str]]]:
    """Return the folders in a folder that can be read, with the names in each; links are none."""
    found = []
    try:
        inner = [entry for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []
    for entry in inner:
        try:
            found.append((Path(entry.path), {each.name for each in os.scandir(entry.path)}))
        except OSError:
            continue
    return found


def _sweep(folder: Path) -> Sweep:
    jobs = [_run(path) for path, names in _folders(folder) if names & MARKS]
    jobs.sort(key=lambda job: _natural(job.folder.name))
    started = _date(folder) or min((job.started for job in jobs), default=_age(folder))
    return Sweep(folder, started, jobs, max(len(jobs), _num_asked(folder)))


def _num_asked(folder: Path) -> int:
    """Return how many runs a sweep was asked for; 0: it does not say."""
    try:
        return _integer(read_object(folder / SWEEP, MOST_BYTES), "num_jobs")
    except UserError:  # an older version's, or damaged: its runs are listed all the same
        return 0


def _natural(name: str) -> list[tuple[int, str]]:
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _run(folder: Path) -> Run:
    settings: Mapping[str, Any] = {}
    metrics: Mapping[str, Any] = {}
    start: Any = None
    reason = None
    try:
        if os.path.lexists(folder / RECORD):
            settings = read_record(folder).settings
            start = read_object(folder / RECORD).get("start")
        metrics = read_settings(folder / METRICS)
    except UserError as error:
        reason = str(error)
    status = read_status(folder) or Status(UNFINISHED if settings else NOT_BEGUN)
    num_steps = status.num_steps or _integer(metrics, "num_steps") or None
    finished = status.state == "finished"
    return Run(
        folder=folder,
        started=_time(start) or _date(folder) or _age(folder),
        model=_model(settings),
        data=_data(settings),
        step=status.step or (num_steps if finished else None),
        num_steps=num_steps,
        val_loss=_number(metrics, "best_val/loss", status.best_val_loss),
        exact_match=_number(metrics, "exact_match", None),
        state=BROKEN if reason else status.state,
        reason=reason or status.reason,
        num_bytes=_num_bytes(folder),
    )


def _model(settings: Mapping[str, Any]) -> str | None:
    name = settings.get("model.pretrained")
    layers, width = settings.get("model.n_layer"), settings.get("model.n_embd")
    if isinstance(name, str):
        path = Path(name.rstrip("/"))
        return path.parent.name if path.name == "model" and path.parent.name else path.name
    return f"{layers}x{width}" if layers and width else None


def _data(settings: Mapping[str, Any]) -> str | None:
    path, sources = settings.get("data.path"), settings.get("data.sources")
    if isinstance(sources, list):
        return f"{len(sources)} sources"
    if isinstance(path, list):
        return f"{len(path)} files"
    if isinstance(path, str):
        return path.rstrip("/").rsplit("/", 1)[-1]
    source = settings.get("data.source")
    return source if isinstance(source, str) else None


def _number(values: Mapping[str, Any], key: str, otherwise: float | None) -> float | None:
    return values[key] if is_number(values.get(key)) else otherwise


def _integer(values: Mapping[str, Any], key: str) -> int:
    return int(_number(values, key, None) or 0)


def _time(text: Any) -> datetime | None:
    """Return the local time of an ISO text."""
    if not isinstance(text, str):
        return None
    try:
        return datetime.fromisoformat(text).astimezone().replace(tzinfo=None)
    except (ValueError, OverflowError, OSError):
        return None


def _date(folder: Path) -> datetime | None:
    """Return the time in the name of a folder."""
    match = DATE.fullmatch(folder.name)
    try:
        return match and datetime.strptime(f"{match[1]} {match[2]}", "%Y-%m-%d %H-%M-%S")
    except ValueError:
        return None


def _age(folder: Path) -> datetime:
    return datetime.fromtimestamp(folder.stat().st_mtime)


def _num_bytes(folder: Path) -> int:
    """Return the bytes of all files of a folder; links are not followed."""
    total = 0
    waiting = [str(folder)]
    while waiting:
        try:
            for entry in os.scandir(waiting.pop()):
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                else:
                    total += entry.stat(follow_symlinks=False).st_size
        except OSError:  # it is gone, or another person's
            continue
    return total
