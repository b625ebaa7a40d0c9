"""Differences to the best model, paired row by row; and the spread of seeds.

Shape letters: R resamples.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from src.evaluation.evaluation import Judged
from src.evaluation.figures import KINDS, Columns, kind_of
from src.evaluation.intervals import LEVEL, Interval, figure_interval, interval, resample

FEWEST_ROWS = 10  # of which a difference may be claimed

# Student's t, of 95% in the middle, for 1 to 30 degrees of freedom; beyond, the normal's.
STUDENT = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
NORMAL = 1.96


@dataclass(frozen=True)
class Difference:
    """How far a model is from the best in one figure: its value minus the best's.

    Attributes:
        best: the number of the best model.
        interval: the difference with its 95% interval.
        certain: whether it is not zero, all pairs of models taken together.
        same: whether both have the same counts on every row.
        num_rows: the rows that count for both.
    """

    best: int
    interval: Interval
    certain: bool
    same: bool
    num_rows: int


@dataclass(frozen=True)
class Spread:
    """A figure over the seeds of one setting: mean, standard deviation (n - 1), and the 95%
    interval of the mean by Student's t.
    """

    num_seeds: int
    mean: Interval
    deviation: float


@dataclass(frozen=True)
class Comparison:
    """What the figures say together.

    Attributes:
        intervals: of each model, its figures by name.
        differences: by figure, then by the number of the model that is not the best.
        groups: the numbers of models that differ in nothing but their seed.
        spreads: of each group, by figure.
    """

    intervals: list[dict[str, Interval]]
    differences: dict[str, dict[int, Difference]]
    groups: list[list[int]]
    spreads: list[dict[str, Spread]]


def compare(judged: Sequence[Judged], num_resamples: int, seed: int) -> Comparison:
    """Return intervals and differences, all from the same draws of rows."""
    columns = {f"{i}/{name}": c for i, j in enumerate(judged) for name, c in j.columns.items()}
    common = _common_rows(judged)
    paired = {f"{i}/paired": c for i, c in common.items()}
    if not columns:
        return Comparison([{} for _ in judged], {}, [], [])
    draws = resample(columns | paired, num_resamples, seed)
    intervals = [
        {name: figure_interval(c, draws[f"{i}/{name}"]) for name, c in model.columns.items()}
        for i, model in enumerate(judged)
    ]
    differences: dict[str, dict[int, Difference]] = {}
    for name in _names(judged):
        by_model: dict[int, tuple[Columns, np.ndarray]] = {
            i: (common[i], draws[f"{i}/paired"])
            if name == "bits_per_byte" and i in common
            else (model.columns[name], draws[f"{i}/{name}"])
            for i, model in enumerate(judged)
            if name in model.columns
        }
        for group in _comparable(judged, name, list(by_model)):
            found = _differences({i: by_model[i] for i in group}, kind_of(name).better)
            if found:
                differences.setdefault(name, {}).update(found)
    groups = seed_groups(judged)
    return Comparison(
        intervals, differences, groups, [_spreads(group, intervals) for group in groups]
    )


def _names(judged: Sequence[Judged]) -> list[str]:
    """Return the figures of which more is better or worse, those of all rows first."""
    names = dict.fromkeys(name for model in judged for name in model.columns)
    order = list(KINDS)
    known = [name for name in names if kind_of(name).better]
    return sorted(known, key=lambda n: ("/" in n, order.index(n.partition("/")[0])))


def _comparable(judged: Sequence[Judged], name: str, models: list[int]) -> list[list[int]]:
    """Return the models between which a figure can be compared."""
    if not kind_of(name).needs_same_tokens:
        return [models]
    groups: dict[str | None, list[int]] = defaultdict(list)
    for i in models:
        groups[judged[i].tokens].append(i)
    return list(groups.values())


def _common_rows(judged: Sequence[Judged]) -> dict[int, Columns]:
    """Return bits per byte over the rows that no model cut, if the models read other tokens.

    Two tokenizers cut a row at different characters: their bytes would not be the same text.
    """
    scored = {i: model for i, model in enumerate(judged) if model.tokens is not None}
    if len({model.tokens for model in scored.values()}) < 2:
        return {}
    whole = ~np.any([model.cut for model in scored.values()], axis=0)
    found = {}
    for i, model in scored.items():
        columns = model.columns["bits_per_byte"]
        found[i] = replace(columns, values=np.where(whole[:, None], columns.values, 0.0))
    return found


def _differences(
    models: dict[int, tuple[Columns, np.ndarray]], better: int
) -> dict[int, Difference]:
    values = {i: columns.figure() for i, (columns, _) in models.items()}
    known = {i: value for i, value in values.items() if not math.isnan(value)}
    if len(known) < 2:
        return {}
    best = max(known, key=lambda i: better * known[i])  # the first of equals
    # Bonferroni over all pairs: which model is the best is read off the same rows.
    level = 1 - (1 - LEVEL) / num_pairs(len(known))
    found = {}
    for i in known:
        if i == best:
            continue
        (columns, draws), (other, best_draws) = models[i], models[best]
        same = np.array_equal(columns.values, other.values)
        num_rows = int((columns.used & other.used).sum())
        with np.errstate(invalid="ignore"):  # infinite perplexities
            difference = known[i] - known[best]
            drawn = draws - best_draws
        shown = interval(difference, drawn)
        is_certain = num_rows >= FEWEST_ROWS and not same and _is_beyond(difference, drawn, level)
        if num_rows < 2:
            shown = Interval(difference, math.nan, math.nan)
        found[i] = Difference(best, shown, bool(is_certain), same, num_rows)
    return found


def num_pairs(num_models: int) -> int:
    """Return how many differences there are between so many models."""
    return num_models * (num_models - 1) // 2


def _is_beyond(difference: float, draws: np.ndarray, level: float) -> bool:
    """Whether a difference is not zero: by its percentiles, and by their standard error.

    Of many models the percentiles lie beyond the last draws; the normal distribution goes on.
    """
    ends = interval(difference, draws, level)
    with np.errstate(invalid="ignore"):  # infinite perplexities
        error = float(np.std(draws))
    is_within = abs(difference) <= NormalDist().inv_cdf((1 + level) / 2) * error
    return (ends.low > 0 or ends.high < 0) and not is_within


def seed_groups(judged: Sequence[Judged]) -> list[list[int]]:
    """Return the numbers of models whose runs differ in nothing but ``seed``, group by group."""
    by_recipe: dict[object, list[int]] = defaultdict(list)
    for i, model in enumerate(judged):
        if (recipe := model.candidate.recipe) is not None:
            by_recipe[recipe].append(i)
    groups = []
    for members in by_recipe.values():
        first_of = {repr(judged[i].candidate.seed): i for i in reversed(members)}  # of each seed
        if len(first_of) > 1:
            groups.append(sorted(first_of.values()))
    return groups


def _spreads(group: Sequence[int], intervals: list[dict[str, Interval]]) -> dict[str, Spread]:
    names = [n for n in intervals[group[0]] if all(n in intervals[i] for i in group)]
    return {name: spread([intervals[i][name].value for i in group]) for name in names}


def spread(values: Sequence[float]) -> Spread:
    """Return mean and spread of a figure over two or more seeds."""
    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
    half = student(len(values) - 1) * deviation / math.sqrt(len(values))
    return Spread(len(values), Interval(mean, mean - half, mean + half), deviation)


def student(freedom: float) -> float:
    """Return the t beyond which, on both sides, 5% lie."""
    number = max(1, int(freedom))
    return STUDENT[number - 1] if number <= len(STUDENT) else NORMAL


def seeds_differ(first: Spread, second: Spread) -> tuple[Interval, bool]:
    """Return the difference of two settings' means with its interval by Welch's t (1947).

    And whether it is more than their seeds differ among themselves.
    """
    parts = [s.deviation**2 / s.num_seeds for s in (first, second)]
    difference, error = first.mean.value - second.mean.value, math.sqrt(sum(parts))
    below = sum(p**2 / (s.num_seeds - 1) for p, s in zip(parts, (first, second), strict=True))
    half = student(sum(parts) ** 2 / below if below else 1) * error
    return Interval(difference, difference - half, difference + half), abs(difference) > half
