"""``sweep.json``: what a sweep is, for the day it goes on.

It is written once, before the first run starts: the folder of each run, what was swept, and the
settings of all. The folder may be a stranger's, or damaged. So, as in ``run.json``, the file is
data and nothing else: its settings are ours by name, and its values stay what they are. Neither
Hydra nor an interpolation of OmegaConf reads any of it.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from src.errors import UserError
from src.files import atomic
from src.training.record import Values, check_keys, read_object

SWEEP = "sweep.json"
JOB = "job.json"  # in the folder of a run that ``sweep.json`` could not know beforehand
MULTIRUN = "multirun.yaml"  # Hydra's, in the folder of any sweep
MOST_BYTES = 2**24
GRID = "grid"
MOST_CHARACTERS = 250  # of a folder's name


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Attributes:
        folder: its name, in the sweep's folder.
        values: what was swept, by dotted key.
        changes: the settings in which it differs from ``Sweep.config``, whole groups of them.
    """

    folder: str
    values: Values
    changes: Values = field(default_factory=dict)


@dataclass(frozen=True)
class Sweep:
    """What ``sweep.json`` holds.

    Attributes:
        kind: ``grid``, where all runs are known beforehand, or what else chooses their values.
        num_jobs: how many runs there will be; None: unknown.
        jobs: the runs that are known beforehand, in their order.
        config: settings of all runs, nested as in ``conf/``, where a job has no other.
        fixed: the overrides that all runs share, as typed: only ever compared.
        extra: what another kind of sweep wants to know.
    """

    kind: str = GRID
    num_jobs: int | None = None
    jobs: tuple[Job, ...] = ()
    config: Values = field(default_factory=dict)
    fixed: tuple[str, ...] = ()
    extra: Values = field(default_factory=dict)

    def settings(self, name: str) -> Values | None:
        """Return all settings of the run in the folder ``name``; None: it is not known."""
        job = next((job for job in self.jobs if job.folder == name), None)
        return None if job is None else {**self.config, **job.changes}


def write_sweep(folder: Path, sweep: Sweep) -> None:
    """Write ``sweep.json``."""
    atomic.write_json(folder / SWEEP, asdict(sweep))


def is_sweep(folder: Path) -> bool:
    """Whether many runs were started in this folder at once, by any version."""
    return any((folder / name).is_file() for name in (SWEEP, MULTIRUN))


def read_sweep(folder: Path) -> Sweep:
    """Return what ``sweep.json`` in ``folder`` holds.

    Raises:
        UserError: there is none, or it is damaged or not of a sweep of ours; in one line.
    """
    path = folder / SWEEP
    content = read_object(path, MOST_BYTES)
    jobs, config = content.get("jobs"), content.get("config")
    number, fixed, extra = content.get("num_jobs"), content.get("fixed"), content.get("extra")
    if not isinstance(jobs, list) or not isinstance(config, dict):
        raise UserError(f"{path} is damaged, or not of a sweep: no list of jobs in it")
    read = tuple(_job(path, job, config) for job in jobs)
    if len({job.folder.lower() for job in read}) < len(read):
        raise UserError(f"{path} is damaged, or not of a sweep: two jobs with one folder")
    return Sweep(
        kind=str(content.get("kind", GRID)),
        num_jobs=number if isinstance(number, int) else None,
        jobs=read,
        config=config,
        fixed=tuple(o for o in fixed if isinstance(o, str)) if isinstance(fixed, list) else (),
        extra=extra if isinstance(extra, dict) else {},
    )


def _job(path: Path, content: Any, config: Values) -> Job:
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged, or not of a sweep: a job without keys and values")
    folder, values, changes = (content.get(key) for key in ("folder", "values", "changes"))
    if not isinstance(folder, str) or not is_inside(folder):
        raise UserError(f"{path} is damaged, or not of a sweep: no folder of a run: {folder!r:.60}")
    if not isinstance(values, dict) or not isinstance(changes, dict):
        raise UserError(f"{path} is damaged, or not of a sweep: no values of {folder}")
    if config:
        check_keys(path, {**config, **changes})
    return Job(folder, values, changes)


def is_inside(name: str) -> bool:
    """Whether a name is that of a folder in the sweep's folder, or in one of its folders."""
    parts = name.split("/")
    is_bad = any(part in ("", ".", "..") for part in parts) or not name.isprintable()
    return not is_bad and "\\" not in name and len(name) <= MOST_CHARACTERS


def write_job(folder: Path, values: Mapping[str, Any]) -> None:
    """Write what was swept for a run that ``sweep.json`` does not list."""
    atomic.write_json(folder / JOB, {"values": dict(values)})


def read_job(folder: Path) -> Values | None:
    """Return what was swept for such a run; None: it is not known."""
    if not (folder / JOB).is_file():
        return None
    try:
        values = read_object(folder / JOB).get("values")
    except UserError:  # it is shown without them
        return None
    return values if isinstance(values, dict) else None
