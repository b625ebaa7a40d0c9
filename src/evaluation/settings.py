"""What a change of a setting does, over several seeds and the same rows: for tables of ablations.

Read from ``results.json`` of runs with some seeds of each setting. Two things are uncertain of a
difference: other rows would give another one, and so would other seeds. Both have their interval,
paired: the same rows, and the same seeds, which draw the same first weights and order of rows.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src.errors import UserError
from src.evaluation.candidates import Candidate, run_settings
from src.evaluation.comparison import spread
from src.evaluation.figures import ratio
from src.evaluation.intervals import Interval, interval, resample

FIGURES = ("loss", "accuracy")
NUM_RESAMPLES = 2000
BASELINE = "baseline"
CONSEQUENCES = ("corpus",)  # of other settings


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
    _check(results, settings, baseline)
    names = [model for models in settings.values() for model in models.values()]
    columns = {
        (figure, model): ratio(*_sums(results["rows"], model, figure))
        for figure in FIGURES
        for model in names
    }
    by_name = {f"{figure}/{model}": of for (figure, model), of in columns.items()}
    draws = resample(by_name, NUM_RESAMPLES, seed=1)

    def changed(models: Mapping[int, str], figure: str) -> Change:
        pairs = [(models[seed], settings[baseline][seed]) for seed in models]
        return _change(
            [
                columns[figure, one].figure() - columns[figure, other].figure()
                for one, other in pairs
            ],
            [draws[f"{figure}/{one}"] - draws[f"{figure}/{other}"] for one, other in pairs],
        )

    found = {}
    for name, models in settings.items():
        by_seed = {
            figure: {seed: columns[figure, model].figure() for seed, model in models.items()}
            for figure in FIGURES
        }
        values = {figure: list(of.values()) for figure, of in by_seed.items()}
        found[name] = Setting(
            by_seed=by_seed,
            mean={figure: float(np.mean(of)) for figure, of in values.items()},
            deviation={figure: _deviation(of) for figure, of in values.items()},
            change=None if name == baseline else {f: changed(models, f) for f in FIGURES},
        )
    return found


def _check(
    results: Mapping[str, Any], settings: Mapping[str, Mapping[int, str]], baseline: str
) -> None:
    for name, models in settings.items():
        if set(models) != set(settings[baseline]):
            raise UserError(
                f"{name} has the seeds {sorted(models)} and {baseline} "
                f"{sorted(settings[baseline])}: train the same seeds of each"
            )
        for model in models.values():
            if model not in results["models"]:
                raise UserError(f"{model}: not in these results; evaluate it with the others")


def _change(values: Sequence[float], draws: Sequence[np.ndarray]) -> Change:
    """Return the mean of each seed's difference, whose value and draws (R,) are given."""
    over_rows = interval(float(np.mean(values)), np.mean(draws, axis=0))
    over_seeds = spread(values).mean if len(values) > 1 else Interval(0, math.nan, math.nan)
    return Change(
        over_rows.value,
        over_rows[1:],
        over_seeds[1:],
        all(low > 0 or high < 0 for _, low, high in (over_rows, over_seeds)),
    )


def _deviation(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def _sums(
    rows: Sequence[Mapping[str, Any]], model: str, figure: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return a figure's sum over the scored tokens of each row, and their number (N,)."""
    of_model = [row["models"][model] for row in rows]
    counts = np.array([row.get("num_scored_tokens", 0) for row in of_model], dtype=np.float64)
    figures = np.array([row.get(figure, 0.0) for row in of_model], dtype=np.float64)
    return figures * counts, counts


def named_settings(results: Mapping[str, Any], baseline: str) -> dict[str, dict[int, str]]:
    """Return the models of ``results.json`` by setting and seed, as ``compare_settings`` wants.

    A setting is named for what differs from the model ``baseline``, as on the command line; its own
    is called "baseline". Of two models of one setting and seed, the first counts.

    Raises:
        UserError: a model comes from no run, so that its settings are not known.
    """
    recipes: dict[str, dict[str, str]] = {}
    for model in [baseline, *results["models"]]:
        folder = results["about"][model]["folder"]
        candidate = Candidate(model, Path(folder), None, run_settings(Path(folder)))
        if candidate.recipe is None:
            raise UserError(f"{model}: no run made it, so its settings are not known")
        recipes[model] = {k: v for k, v in candidate.recipe if k not in CONSEQUENCES}
    found: dict[str, dict[int, str]] = {BASELINE: {}}
    for model in results["models"]:
        changes = [
            f"{key}={_as_typed(value)}"
            for key, value in sorted(recipes[model].items())
            if recipes[baseline].get(key) != value
        ]
        of_setting = found.setdefault(" ".join(changes) or BASELINE, {})
        of_setting.setdefault(results["about"][model]["seed"], model)
    return found


def _as_typed(value: str) -> str:
    """Return a setting's ``repr`` as it is written on the command line."""
    return {"True": "true", "False": "false", "None": "null"}.get(value, value.strip("'"))


def markdown_table(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a line for each setting (its ``json()``): means, spreads, and both intervals."""
    lines = [
        "| setting | test loss | accuracy | loss against the baseline | rows | seeds | settled |",
        "|:--|--:|--:|--:|--:|--:|:--|",
    ]
    for name, setting in found.items():
        mean, deviation, change = setting["mean"], setting["deviation"], setting["change"]
        cells = [
            f"{mean['loss']:.4f} ± {deviation['loss']:.4f}",
            f"{mean['accuracy']:.2%} ± {100 * deviation['accuracy']:.2f}",
        ]
        if change is None:
            cells += ["", "", "", ""]
        else:
            loss = change["loss"]
            verdict = ("worse" if loss["value"] > 0 else "better") if loss["settled"] else "no"
            cells += [
                f"{loss['value']:+.4f}",
                *("{:+.3f} to {:+.3f}".format(*loss[which]) for which in ("rows", "seeds")),
                verdict,
            ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines
