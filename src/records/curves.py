"""The curves of a run: what was logged, step by step."""

from pathlib import Path
from typing import NamedTuple

from src.training.history import FIRST_COLUMNS, HISTORY, read_history

TENSORBOARD = "tensorboard"


class Curve(NamedTuple):
    """A figure over the optimizer steps at which it was logged: ``plot(*curve)`` draws it."""

    steps: list[int]
    values: list[float]


def read_curves(folder: Path) -> dict[str, Curve]:
    """Return each figure that the run in ``folder`` has logged, by its name.

    A run of an older version has no ``history.csv``: its curves are TensorBoard's.
    """
    rows = read_history(folder / HISTORY)
    if not rows:
        return _of_tensorboard(folder / TENSORBOARD)
    curves: dict[str, Curve] = {}
    for row in rows:
        for name, value in row.items():
            if value and name not in FIRST_COLUMNS:
                curve = curves.setdefault(name, Curve([], []))
                curve.steps.append(int(row["step"]))
                curve.values.append(float(value))
    return curves


def _of_tensorboard(folder: Path) -> dict[str, Curve]:
    if not folder.is_dir():
        return {}
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    curves = {}
    for name in events.Tags()["scalars"]:
        points = events.Scalars(name)
        curves[name] = Curve([p.step for p in points], [p.value for p in points])
    return curves
