"""The runs of a folder that whoever judges its models has to leave out, or takes as they are."""

from collections.abc import Sequence
from pathlib import Path

from src.errors import UserError
from src.sweeps.outcomes import open_sweep
from src.sweeps.state import SWEEP
from src.training.status import FINISHED, read_status


def runs_left_out(folder: Path, judged: Sequence[str], without: Sequence[str]) -> list[str]:
    """Return the runs without a model, each with what became of it as far as that is known.

    A run that failed before it began, or that its sweep has not started, leaves nothing but its
    place in the record of the sweep.

    Args:
        folder: of the runs.
        judged: those that have a model.
        without: those that lie there and have none.
    """
    known = {run: _state(Path(run)) for run in without}
    for record in sorted(folder.rglob(SWEEP)):
        try:
            outcomes = open_sweep(record.parent).outcomes
        except UserError:  # a damaged record tells nothing of its runs
            continue
        for outcome in outcomes:
            run = str(record.parent / outcome.folder)
            if run not in judged:
                known[run] = _words(outcome.state, outcome.reason)
    return [f"{run} ({state})" if state else run for run, state in known.items()]


def runs_unfinished(judged: Sequence[str]) -> list[str]:
    """Return the runs that have a model and did not come to their end, each with how it ended."""
    states = {run: _state(Path(run)) for run in judged}
    return [f"{run} ({state})" for run, state in states.items() if state not in ("", FINISHED)]


def _state(run: Path) -> str:
    status = read_status(run)
    return "" if status is None else _words(status.state, status.reason)


def _words(state: str, reason: str | None) -> str:
    return f"{state}: {reason}" if reason else state
