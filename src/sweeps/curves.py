"""How the validation loss of a run went: from ``history.csv``, or from TensorBoard's file."""

import csv
import math
from pathlib import Path
from typing import NamedTuple

from src.errors import UserError

HISTORY = "history.csv"
TENSORBOARD = "tensorboard"
VAL_LOSS = "val/loss"
MOST_BYTES = 2**26


class Curve(NamedTuple):
    """Points of a run, one for each validation; ``tokens`` is empty where they are not known."""

    steps: list[int]
    tokens: list[float]
    losses: list[float]


def read_curve(folder: Path) -> Curve | None:
    """Return the validation losses of the run in ``folder``; None: there are none to be read."""
    return _of_history(folder / HISTORY) or _of_events(folder / TENSORBOARD)


def _of_history(path: Path) -> Curve | None:
    if path.is_symlink() or not path.is_file() or path.stat().st_size > MOST_BYTES:
        return None
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        rows = [
            (step, _number(row.get("tokens")), loss)
            for row in csv.DictReader(file)
            if (step := _number(row.get("step"))) is not None
            and (loss := _number(row.get(VAL_LOSS))) is not None
        ]
    return _curve(rows)


def _number(text: object) -> float | None:
    try:
        number = float(str(text))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _of_events(folder: Path) -> Curve | None:
    if not folder.is_dir():
        return None
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    try:
        events = EventAccumulator(str(folder))
        events.Reload()
        if VAL_LOSS not in events.Tags()["scalars"]:
            return None
        points = events.Scalars(VAL_LOSS)
    except Exception as error:  # tensorboard names none; the file may be damaged or a stranger's
        raise UserError(f"{folder} cannot be read: {' '.join(str(error).split())[:200]}") from error
    return _curve([(p.step, None, p.value) for p in points if math.isfinite(p.value)])


def _curve(rows: list[tuple[float, float | None, float]]) -> Curve | None:
    if not rows:
        return None
    tokens = [t for _, t, _ in rows if t is not None]
    return Curve(
        [int(step) for step, _, _ in rows],
        tokens if len(tokens) == len(rows) else [],
        [loss for _, _, loss in rows],
    )
