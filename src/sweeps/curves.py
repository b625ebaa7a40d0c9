"""How the validation loss of a run of a sweep went."""

import math
from pathlib import Path
from typing import NamedTuple

from src.training.curves import HISTORY, read_curves, read_history

VAL_LOSS = "val/loss"


class Curve(NamedTuple):
    """Points of a run, one for each validation; ``tokens`` is empty where they are not known."""

    steps: list[int]
    tokens: list[float]
    losses: list[float]


def read_curve(folder: Path) -> Curve | None:
    """Return the validation losses of the run in ``folder``; None: it has none.

    Raises:
        UserError: its file is damaged.
    """
    curve = read_curves(folder).get(VAL_LOSS)
    if curve is None:
        return None
    tokens_at = {int(row["step"]): float(row["tokens"]) for row in read_history(folder / HISTORY)}
    points = [(s, loss) for s, loss in zip(*curve, strict=True) if math.isfinite(loss)]
    tokens = [tokens_at[step] for step, _ in points if step in tokens_at]
    return Curve(
        [step for step, _ in points],
        tokens if len(tokens) == len(points) else [],
        [loss for _, loss in points],
    )
