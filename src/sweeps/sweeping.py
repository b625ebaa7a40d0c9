"""What happens around Hydra's multirun: the record before, the lines meanwhile, the ranking after.

Hydra's sweeper chooses values and its launcher starts runs, in this process or in others. All that
is known of the runs here comes from their folders.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from src import signals, streams
from src.errors import UserError
from src.files import disk
from src.sweeps.display import Display
from src.sweeps.files import report, write_csv
from src.sweeps.going_on import going_on
from src.sweeps.grid import asked, may_be_sweep
from src.sweeps.launchers import hand_on
from src.sweeps.optuna_plugin import register
from src.sweeps.outcomes import Results, read_results
from src.sweeps.state import MULTIRUN, SWEEP, Sweep, read_sweep, write_sweep
from src.sweeps.table import go_on_command, shown
from src.training import lock
from src.training.status import BUG, FAILED, MISTAKE
from src.wording.command_line import command, grammatical

SIGNALLED = 128  # exit codes above it are of signals


@contextmanager
def sweeping(
    arguments: Sequence[str], runs: Path, may_change: Callable[[Sequence[str]], list[str]]
) -> Iterator[list[str]]:
    """Yield the command line for Hydra; if it asks for many runs, show them, and rank them after.

    Args:
        arguments: the command line.
        runs: where the folders of runs and sweeps are.
        may_change: returns the keys of overrides that a run that goes on may not have otherwise.

    Raises:
        UserError: the sweep cannot start, or not go on.
        SystemExit: a run failed; 2 if only people's mistakes did it, else 1.
    """
    if not may_be_sweep(arguments):
        yield list(arguments)
        return
    register()
    resumed = going_on(arguments, runs, may_change)
    if resumed is not None:
        hold(resumed.folder)
        folder, hydras = resumed.folder, list(resumed.arguments)
    else:
        found = asked("train", arguments)
        if found is None:
            yield list(arguments)
            return
        folder = found.folder
        begin(folder, found.sweep)
        others = [a for a in arguments if not a.startswith("hydra.sweep.dir=")]
        hydras = [*others, f"hydra.sweep.dir={grammatical(folder)}"]
    try:
        if not hydras:
            say(f"{shown(folder)} is finished")
            finish(folder)
            sys.exit(0)
        with _watched(folder):
            yield hydras
        finish(folder)
    except SystemExit as stop:
        if isinstance(stop.code, int) and stop.code > SIGNALLED:
            write_csv(_results(folder))
            say("\n".join(remaining_lines(_results(folder))))
        raise
    finally:
        lock.release(folder)
        _remove_unused(folder)


def begin(folder: Path, sweep: Sweep) -> None:
    """Make the folder of a new sweep, and write down what it is.

    Raises:
        UserError: there is a sweep in it already.
    """
    if (folder / SWEEP).exists():
        raise UserError(
            f"{folder} holds a sweep already: go on with it ({go_on_command(folder)}), or give "
            f"the new one another folder (leave out hydra.sweep.dir)"
        )
    with disk.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    hold(folder)
    write_sweep(folder, sweep)


def hold(folder: Path) -> None:
    """Take the lock of a sweep for this process.

    Raises:
        UserError: another process is at it.
    """
    if not lock.hold(folder):
        raise UserError(f"{folder}: another process is at this sweep: wait for it, or stop it")


@contextmanager
def _watched(folder: Path) -> Iterator[None]:
    """Show the runs meanwhile; a signal that ends this process at once says how to go on."""
    _watching.append(folder)
    signals.at_end(_part)
    try:
        with Display(lambda: _results(folder), sys.stderr), signals.first_waits(hand_on):
            yield
    except Exception:
        if signals.received() is None:  # else it is of a launcher whose processes have ended
            raise
    finally:
        _watching.remove(folder)
    received = signals.received()
    if received is not None:
        sys.exit(SIGNALLED + received)


def _results(folder: Path) -> Results:
    return read_results(folder, read_sweep(folder))


def finish(folder: Path) -> None:
    """Rank the runs on standard output, and write the files.

    Raises:
        SystemExit: a run failed; 2 if only people's mistakes did it, else 1.
    """
    results = _results(folder)
    streams.say("")
    for line in report(results):
        streams.say(line)
    codes = {run.exit_code or BUG for run in results.outcomes if run.state == FAILED}
    if codes or results.num_remaining:
        sys.exit(MISTAKE if codes == {MISTAKE} and not results.num_remaining else BUG)


def remaining_lines(results: Results) -> list[str]:
    """Return how many runs are left, and the command that goes on with them."""
    number = results.num_remaining
    if not number:
        return [f"all runs have ended; see them with: {command('sweep', folder=results.folder)}"]
    runs = f"{number} of {results.num_jobs} runs {'remains' if number == 1 else 'remain'}"
    return [f"{runs}; go on with: {go_on_command(results.folder)}"]


def say(text: str) -> None:
    """Print on standard error."""
    streams.say(text, sys.stderr)


_watching: list[Path] = []  # the sweep of this process


def _part() -> None:
    for folder in _watching:
        signals.say_at_end("\n".join(remaining_lines(_results(folder))))


def _remove_unused(folder: Path) -> None:
    """Remove the folder of a new sweep of which no run has begun: Hydra refused all of it."""
    with suppress(OSError):
        if not any(path.is_dir() for path in folder.iterdir()):
            for name in (SWEEP, MULTIRUN):
                (folder / name).unlink(missing_ok=True)
            folder.rmdir()
