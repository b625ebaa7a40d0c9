"""The curves of a run, read: from ``history.csv``, or from the file of TensorBoard of an older one.

Whoever only looks at runs reads them without torch and Lightning.
"""

import csv
import io
from pathlib import Path
from typing import NamedTuple

from src.errors import UserError

HISTORY = "history.csv"  # in the run folder
FIRST_COLUMNS = ("step", "tokens", "seconds")
OLDER = "tensorboard"  # in older run folders TensorBoard's file is in here
MOST_BYTES = 2**28  # of a history: a million rows and more


class Curve(NamedTuple):
    """A figure over the optimizer steps at which it was logged: ``plot(*curve)`` draws it."""

    steps: list[int]
    values: list[float]


def read_curves(folder: Path) -> dict[str, Curve]:
    """Return each figure that the run in ``folder`` has logged, by its name.

    A run of an older version has no ``history.csv``: its curves are TensorBoard's.

    Raises:
        UserError: the file of TensorBoard is damaged.
    """
    rows = read_history(folder / HISTORY)
    if not rows:
        return _of_tensorboard(folder / OLDER)
    curves: dict[str, Curve] = {}
    for row in rows:
        for name, value in row.items():
            if value and name not in FIRST_COLUMNS:
                curve = curves.setdefault(name, Curve([], []))
                curve.steps.append(int(row["step"]))
                curve.values.append(float(value))
    return curves


def read_history(path: Path) -> list[dict[str, str]]:
    """Return the rows of a history by column, as text; those after a torn one are left out.

    A loss of power may tear what was written since the last checkpoint. No file, a link or one that
    is too large for a table of ours: no rows.
    """
    if path.is_symlink() or not path.is_file() or path.stat().st_size > MOST_BYTES:
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    rows: list[dict[str, str]] = []
    reader = csv.reader(io.StringIO(text, newline=""))
    columns = next(reader, [])
    if tuple(columns[:3]) != FIRST_COLUMNS:
        return []
    for values in reader:
        if len(values) != len(columns) or not values[0].isdecimal():
            break
        rows.append(dict(zip(columns, values, strict=True)))
    return rows


def _of_tensorboard(folder: Path) -> dict[str, Curve]:
    if not folder.is_dir():
        return {}
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    try:
        events.Reload()
        points = {name: events.Scalars(name) for name in events.Tags()["scalars"]}
    except Exception as error:  # tensorboard names none; the file may be damaged or a stranger's
        raise UserError(f"{folder} cannot be read: {' '.join(str(error).split())[:200]}") from error
    return {name: Curve([p.step for p in ps], [p.value for p in ps]) for name, ps in points.items()}
