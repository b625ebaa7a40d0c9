"""95% intervals by the bootstrap: rows are drawn again, with replacement, many times.

The percentile interval of a ratio of sums (Efron & Tibshirani 1993, An Introduction to the
Bootstrap, chapters 13 and 8.5). All figures of all models are computed on the same draws, so
differences between models are paired (Koehn 2004, Statistical Significance Tests for Machine
Translation Evaluation).

Shape letters: N rows, K columns of a figure, R resamples.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from src.evaluation.figures import FORMS, Columns

LEVEL = 0.95
CHUNK_BYTES = 2**25  # of the counts of rows that are in memory at once


class Interval(NamedTuple):
    """A figure, and the ends of its interval; nan: unknown."""

    value: float
    low: float
    high: float

    def json(self) -> dict[str, float | None]:
        """Return it as JSON holds it, where nan and infinity are null."""
        return {
            name: float(value) if np.isfinite(value) else None
            for name, value in self._asdict().items()
        }


def resample(
    columns: Mapping[str, Columns], num_resamples: int, seed: int
) -> dict[str, np.ndarray]:
    """Return each figure on each of the draws (R,); figures of the same draw belong together.

    A draw takes as many rows as there are, each any number of times. It costs one matrix product
    of the counts (R, N) with all columns. Raises ValueError if there are no columns.
    """
    stacked = np.concatenate([each.values for each in columns.values()], axis=1)
    num_rows = len(stacked)
    rng = np.random.default_rng(seed)
    sums = np.empty((num_resamples, stacked.shape[1]))
    size = max(1, CHUNK_BYTES // (8 * max(num_rows, 1)))
    for first in range(0, num_resamples, size):
        counts = np.stack(
            [
                np.bincount(rng.integers(num_rows, size=num_rows), minlength=num_rows)
                for _ in range(min(size, num_resamples - first))
            ]
        ).astype(np.float64)
        with np.errstate(invalid="ignore"):  # a row that is not finite spoils its column: nan
            sums[first : first + len(counts)] = counts @ stacked
    figures, start = {}, 0
    for name, each in columns.items():
        width = each.values.shape[1]
        with np.errstate(invalid="ignore"):
            figures[name] = FORMS[each.form](sums[:, start : start + width])
        start += width
    return figures


def interval(value: float, draws: np.ndarray, level: float = LEVEL) -> Interval:
    """Return ``value`` with the percentile interval of its ``draws`` (R,)."""
    known = draws[~np.isnan(draws)]
    if not len(known) or np.isnan(value):
        return Interval(value, np.nan, np.nan)
    tail = (1 - level) / 2
    low, high = np.quantile(known, [tail, 1 - tail], method="closest_observation")
    return Interval(value, float(low), float(high))


def figure_interval(columns: Columns, draws: np.ndarray, level: float = LEVEL) -> Interval:
    """Return a figure with its interval; one row alone has none.

    A share that is 0 or 1 on every row has no spread to draw from. Its interval is the exact one of
    Clopper & Pearson (1934) for the share of rows without an exception.
    """
    value = columns.figure()
    num_rows = int(columns.used.sum())
    if num_rows < 2:
        return Interval(value, np.nan, np.nan)
    if columns.is_share and value in (0.0, 1.0):
        far = ((1 - level) / 2) ** (1 / num_rows)
        return Interval(value, far, 1.0) if value else Interval(value, 0.0, 1.0 - far)
    return interval(value, draws, level)
