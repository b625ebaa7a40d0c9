"""A sweep goes on: ``-m resume=<sweep folder>``, or ``-m resume=auto`` for the newest unfinished.

It becomes a sweep over ``resume=``: each run that has not finished, in its own folder. A run that
has begun goes on as it would alone; one that has not gets its settings from ``sweep.json``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from src.command.overrides import MULTIRUN
from src.errors import UserError
from src.own_function import REWARD
from src.sweeps.optuna_record import OPTUNA, arguments_of
from src.sweeps.outcomes import Results, open_sweep
from src.sweeps.state import GRID, SWEEP, Job, Sweep, read_sweep, write_sweep
from src.sweeps.state import MULTIRUN as HYDRAS
from src.sweeps.table import go_on_command
from src.training import lock
from src.training.record import RECORD, Values
from src.training.status import FINISHED
from src.wording.command_line import command, grammatical, unquoted

AUTO = "auto"
NUM_TRIALS = "hydra.sweeper.n_trials"


@dataclass(frozen=True)
class GoingOn:
    """A sweep that goes on.

    Attributes:
        folder: of the sweep.
        arguments: the command line for Hydra; empty: there is nothing left to do.
    """

    folder: Path
    arguments: tuple[str, ...]


def going_on(
    arguments: Sequence[str], runs: Path, may_change: Callable[[Sequence[str]], list[str]]
) -> GoingOn | None:
    """Return how the sweep that ``resume=`` names goes on; None: no sweep is to go on.

    Args:
        arguments: the command line.
        runs: where ``auto`` looks.
        may_change: returns the keys of overrides that a run that goes on may not have otherwise.

    Raises:
        UserError: there is no such sweep, or it goes on in another way.
    """
    named = [a for a in arguments if a.startswith("resume=")]
    if not named or not MULTIRUN & set(arguments):
        return None
    if len(named) > 1:
        raise UserError(f"{named[0]} and {named[1]}: name one sweep")
    name = unquoted(named[0].removeprefix("resume="))
    folder = find_sweep(name, runs)
    if folder is None:
        raise UserError(f"{named[0]}: no unfinished sweep under {runs} to go on with")
    others = [a for a in arguments if a != named[0] and not a.startswith("hydra.sweep.")]
    if refused := may_change(others):
        raise UserError(
            f"{named[0]}: {refused[0]} is part of what the runs are, and stays as it was: leave it "
            f"out, or start a new sweep"
        )
    return GoingOn(folder, _arguments(open_sweep(folder), others))


def _arguments(results: Results, others: Sequence[str]) -> tuple[str, ...]:
    if results.sweep.kind == OPTUNA:
        return _arguments_of_search(results, others)
    if results.sweep.kind != GRID:
        raise UserError(f"{results.folder}: a sweep of {results.sweep.kind} does not go on here")
    left = [run.folder for run in results.outcomes if run.state != FINISHED]
    if not left:
        return ()
    listed = ",".join(grammatical(results.folder / name) for name in left)
    return (
        *others,
        f"resume={listed}",
        f"hydra.sweep.dir={grammatical(results.folder)}",
        "hydra.output_subdir=null",
    )


def _arguments_of_search(results: Results, others: Sequence[str]) -> tuple[str, ...]:
    """Return how a search goes on: to its number of trials, or to another that is typed now."""
    folder, sweep = results.folder, results.sweep
    for other in others:
        key, _, number = other.partition("=")
        if key == NUM_TRIALS and number.isdecimal():
            sweep = replace(sweep, num_jobs=int(number))
            settings = {**sweep.extra.get("sweeper", {}), "n_trials": int(number)}
            sweep = replace(sweep, extra={**sweep.extra, "sweeper": settings})
    recorded = arguments_of(folder, sweep)
    if sweep != results.sweep:
        write_sweep(folder, sweep)
    elif not results.num_remaining:
        return ()
    typed = {other.partition("=")[0].lstrip("+") for other in others}
    kept = [argument for argument in recorded if argument.partition("=")[0] not in typed]
    for argument in kept:
        key, _, name = argument.partition("=")
        if key.lstrip("+") == REWARD and "." in name:  # the folder may be a stranger's
            raise UserError(f"{folder} calls a function: add {argument}, if you know it")
    place = f"hydra.sweep.dir={grammatical(folder)}"
    return (*others, *kept, place)


def find_sweep(name: str, runs: Path) -> Path | None:
    """Return the folder of the sweep that ``resume=name`` means; None: ``auto`` finds none.

    Raises:
        UserError: it is no sweep that can go on; says what it is.
    """
    if name == AUTO:
        folders = sorted(
            (path.parent for path in runs.glob(f"*/{SWEEP}")),
            key=lambda folder: (folder / SWEEP).stat().st_mtime,
            reverse=True,
        )
        return next((folder for folder in folders if _is_unfinished(folder)), None)
    folder = Path(name).expanduser()
    if (folder / SWEEP).exists():
        return folder
    if (folder / RECORD).exists():
        raise UserError(
            f"resume={name} is one run: leave out -m ({command('train', resume=folder)})"
        )
    if (folder / HYDRAS).exists():
        raise UserError(
            f"resume={name}: this sweep is of an older version, without {SWEEP}: go on with its "
            f"runs one by one, without -m"
        )
    raise UserError(f"resume={name}: not a sweep's folder (no {SWEEP} in it)")


def _is_unfinished(folder: Path) -> bool:
    """Whether a run has not come to its end, and no process is at the sweep."""
    try:
        results = open_sweep(folder)
    except UserError:
        return False
    return results.num_remaining > 0 and not lock.is_held(folder)


def refuse_sweep(folder: Path) -> None:
    """Check that a folder that ``resume=`` names without ``-m`` is no sweep.

    Raises:
        UserError: it is one.
    """
    if (folder / SWEEP).exists() and not (folder / RECORD).exists():
        raise UserError(f"resume={folder} is a sweep: add -m ({go_on_command(folder)})")


def settings_in_sweep(folder: Path) -> Values | None:
    """Return the settings of a run that a sweep was to start in ``folder``; None: of no sweep.

    Raises:
        UserError: the record of the sweep is damaged.
    """
    found = _job(folder)
    return None if found is None else found[0].settings(found[1].folder)


def values_in_sweep(folder: Path) -> list[str]:
    """Return what was swept for the run in ``folder``, as ``key=value``: for people."""
    found = _job(folder)
    values = {} if found is None else found[1].values
    return [f"{key}={_typed(value)}" for key, value in values.items()]


def _typed(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {None: "null", True: "true", False: "false"}[value]
    return grammatical(value) if isinstance(value, str) else str(value)


def _job(folder: Path) -> tuple[Sweep, Job] | None:
    folder = folder.absolute()
    parent = next((p for p in list(folder.parents)[:3] if (p / SWEEP).is_file()), None)
    if parent is None:
        return None
    sweep, name = read_sweep(parent), folder.relative_to(parent).as_posix()
    return next(((sweep, job) for job in sweep.jobs if job.folder == name), None)
