"""What a change of a setting does, over several seeds and the same rows: for tables of ablations.

Read from ``results.json`` of runs with some seeds of each setting. Two things are uncertain of a
difference: other rows would give another one, and so would other seeds. Both have their interval,
paired: the same rows, and the same seeds, which draw the same first weights and order of rows.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from src.errors import UserError
from src.evaluation.comparison import spread
from src.evaluation.figures import ratio
from src.evaluation.intervals import Interval, interval, resample

FIGURES = ("loss", "accuracy")
NUM_RESAMPLES = 2000


@dataclass(frozen=True)
class Change:
    """A figure of a setting minus that of the baseline, means over seeds.

    Attributes:
        value: the difference.
        rows: its 95% interval over draws of rows, for these seeds.
        seeds: its 95% interval over seeds, for these rows: Student's t of the differences between
            runs of the same seed; nan for one seed.
        settled: whether both are beyond zero.
    """

    value: float
    rows: tuple[float, float]
    seeds: tuple[float, float]
    settled: bool


@dataclass(frozen=True)
class Setting:
    """The runs of one setting.

    Attributes:
        by_seed: of each figure, its value by seed.
        mean: of each figure over the seeds.
        deviation: of each figure between the seeds (n - 1).
        change: of each figure against the baseline; None for the baseline.
    """

    by_seed: dict[str, dict[int, float]]
    mean: dict[str, float]
    deviation: dict[str, float]
    change: dict[str, Change] | None

    def json(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        return asdict(self)


def compare_settings(
    results: Mapping[str, Any], settings: Mapping[str, Mapping[int, str]], baseline: str
) -> dict[str, Setting]:
    """Return what each setting scores, and how far it is from ``baseline``.

    Args:
        results: the content of ``results.json``.
        settings: the names of the models of each setting, by seed.
        baseline: one of the settings.

    Raises:
        UserError: a setting lacks a seed that the baseline has, or a model is not in ``results``.
    """
    for name, models in settings.items():
        if set(models) != set(settings[baseline]):
            raise UserError(
                f"{name} has the seeds {sorted(models)} and {baseline} "
                f"{sorted(settings[baseline])}: train the same seeds of each"
            )
        for model in models.values():
            if model not in results["models"]:
                raise UserError(f"{model}: not in these results; evaluate it with the others")
    names = [model for models in settings.values() for model in models.values()]
    columns = {
        f"{figure}/{model}": ratio(*_sums(results["rows"], model, figure))
        for figure in FIGURES
        for model in names
    }
    draws = resample(columns, NUM_RESAMPLES, seed=1)

    def compared(models: Mapping[int, str], figure: str) -> Change:
        pairs = [(f"{figure}/{models[s]}", f"{figure}/{settings[baseline][s]}") for s in models]
        values = [columns[one].figure() - columns[other].figure() for one, other in pairs]
        drawn = np.mean([draws[one] - draws[other] for one, other in pairs], axis=0)
        over_rows = interval(float(np.mean(values)), drawn)
        over_seeds = spread(values).mean if len(values) > 1 else Interval(0, math.nan, math.nan)
        return Change(
            over_rows.value,
            over_rows[1:],
            over_seeds[1:],
            all(low > 0 or high < 0 for _, low, high in (over_rows, over_seeds)),
        )

    found = {}
    for name, models in settings.items():
        by_seed = {
            figure: {seed: columns[f"{figure}/{model}"].figure() for seed, model in models.items()}
            for figure in FIGURES
        }
        values = {figure: list(of.values()) for figure, of in by_seed.items()}
        found[name] = Setting(
            by_seed=by_seed,
            mean={figure: float(np.mean(of)) for figure, of in values.items()},
            deviation={
                figure: float(np.std(of, ddof=1)) if len(of) > 1 else math.nan
                for figure, of in values.items()
            },
            change=None
            if name == baseline
            else {figure: compared(models, figure) for figure in FIGURES},
        )
    return found


def _sums(
    rows: Sequence[Mapping[str, Any]], model: str, figure: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return a figure's sum over the scored tokens of each row, and their number (N,)."""
    of_model = [row["models"][model] for row in rows]
    counts = np.array([row.get("num_scored_tokens", 0) for row in of_model], dtype=np.float64)
    figures = np.array([row.get(figure, 0.0) for row in of_model], dtype=np.float64)
    return figures * counts, counts
