"""What can and what cannot be concluded, a sentence for each comparison."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from src.evaluation.comparison import (
    FEWEST_ROWS,
    Comparison,
    Difference,
    num_pairs,
    seeds_differ,
    student,
)
from src.evaluation.evaluation import Judged
from src.evaluation.figures import KINDS, LARGE, kind_of, written
from src.evaluation.intervals import Interval

FEW_ROWS = 30  # below, percentile intervals are too narrow
BY_TOKENS = ("loss", "bits_per_byte")
BY_REPLIES = ("gold", "exact_match", "chrf", "rouge_l")


def short_names(names: Sequence[str]) -> list[str]:
    """Return a short name for each model: its run's or its folder's, if no other has the same."""
    short = []
    for name in names:
        parts = [part for part in name.rstrip("/").split("/") if part]
        if name.startswith(("http://", "https://")) or not parts:
            short.append(name)
            continue
        place = Path(parts[-1]).name
        short.append(parts[-2] if place == "model" and len(parts) > 1 else place)
    return [s if short.count(s) == 1 else name for s, name in zip(short, names, strict=True)]


def conclusions(judged: Sequence[Judged], comparison: Comparison, num_rows: int) -> list[str]:
    """Return the sentences, those about single models first."""
    names = short_names([model.candidate.name for model in judged])
    noted: dict[str, list[str]] = {}  # what is said of several is said once
    for name, model in zip(names, judged, strict=True):
        for note in model.notes:
            noted.setdefault(note, []).append(name)
    said = [f"{', '.join(those)}: {note}." for note, those in noted.items()]
    if num_rows < 2:
        said.append("One row has no interval: nothing can be said of other rows.")
    elif num_rows < FEW_ROWS:
        said.append(f"Only {num_rows} rows: the intervals are narrower than they should be.")
    if len(judged) < 2:
        return said
    said += _tokenizers(judged, names)
    said += _ranking(judged, comparison, names)
    for figure in _figures(judged, comparison):
        said += [
            _difference(names, comparison, figure, i, found)
            for i, found in sorted(comparison.differences[figure].items())
        ]
    said += _seeds(judged, comparison, names)
    return said


def _figures(judged: Sequence[Judged], comparison: Comparison) -> list[str]:
    """Return one figure of scored tokens and one of replies: those that claims are made of.

    Of replies, the first in which the models are not all the same.
    """
    one_reading = len({m.tokens for m in judged if m.tokens is not None}) < 2
    by_tokens = BY_TOKENS if one_reading else BY_TOKENS[::-1]
    chosen = []
    for candidates in (by_tokens, BY_REPLIES):
        names = [name for name in candidates if comparison.differences.get(name)]
        telling = [name for name in names if not _is_same(comparison.differences[name])]
        chosen += (telling or names)[:1]
    return chosen


def _ranking(judged: Sequence[Judged], comparison: Comparison, names: Sequence[str]) -> list[str]:
    """Return the order of three models or more by the first figure that is compared."""
    figures = _figures(judged, comparison)
    if len(judged) < 3 or not figures:
        return []
    kind = kind_of(figures[0])
    found = {
        i: each[figures[0]].value
        for i, each in enumerate(comparison.intervals)
        if figures[0] in each
    }
    order = sorted(found, key=lambda i: found[i], reverse=kind.better > 0)
    ranked = "; ".join(
        f"{n}. {names[i]} {written(figures[0], found[i])}" for n, i in enumerate(order, 1)
    )
    return [f"{kind.label}, the best first: {ranked}."]


def _is_same(models: Mapping[int, Difference]) -> bool:
    return all(found.same for found in models.values())


def _tokenizers(judged: Sequence[Judged], names: Sequence[str]) -> list[str]:
    readings: dict[str, list[str]] = {}
    for model, name in zip(judged, names, strict=True):
        if model.tokens is not None:
            readings.setdefault(model.tokens, []).append(name)
    if len(readings) < 2:
        return []
    sides = " | ".join(", ".join(side) for side in readings.values())
    return [
        f"Different tokenizers ({sides}): loss, perplexity and accuracy are per token and cannot "
        f"be compared between them; bits per byte, exact match and the figures of replies can."
    ]


def difference_text(figure: str, found: Interval, interval: str = "95% interval ") -> str:
    """Return a difference with its interval, in the digits of the figure; of shares, in points."""
    form = kind_of(figure).form
    is_share = "%" in form
    unit = " points" if is_share else ""

    def number(value: float) -> str:
        if math.isinf(value) or abs(value) >= LARGE:
            return f"{value:+.3g}"
        signed = form.replace("{:", "{:+").replace("%", "f")
        return signed.format(100 * value if is_share else value)

    if math.isnan(found.low):
        return f"{number(found.value)}{unit}"
    return f"{number(found.value)}{unit} ({interval}{number(found.low)} to {number(found.high)})"


def _difference(
    names: Sequence[str], comparison: Comparison, figure: str, model: int, found: Difference
) -> str:
    name, best = names[model], names[found.best]
    label = kind_of(figure).label
    if found.same:
        return f"{label}: {name} and {best} score the same on every row: no difference."
    both = ", ".join(
        f"{names[i]} {written(figure, comparison.intervals[i][figure].value)}"
        for i in (found.best, model)
    )
    facts = (
        f"{label}: {both}; difference {difference_text(figure, found.interval)}, paired over "
        f"{found.num_rows:,} row{'' if found.num_rows == 1 else 's'}"
    )
    if found.certain:
        return f"{facts}: {best} is better on rows like these{_contrary(comparison, model, found)}."
    if found.num_rows < FEWEST_ROWS:
        return f"{facts}: too few rows to say which is better."
    if found.interval.low > 0 or found.interval.high < 0:
        num_models = len(comparison.differences[figure]) + 1
        return f"{facts}: not certain, with {num_pairs(num_models)} pairs of models compared."
    return f"{facts}: it may be none; these rows do not show which is better."


def _contrary(comparison: Comparison, model: int, found: Difference) -> str:
    """Name the figures in which the model is better than the one that is called better."""
    labels = [
        kind_of(name).label
        for name, models in comparison.differences.items()
        if "/" not in name and (other := models.get(found.best)) and other.certain
        if other.best == model
    ]
    if not labels:
        return ""
    more = len(labels) - 1
    others = f" and {more} other figure{'s' if more > 1 else ''}" if more else ""
    return f", but certainly worse in {labels[0]}{others}"


def _seeds(judged: Sequence[Judged], comparison: Comparison, names: Sequence[str]) -> list[str]:
    """Say what seeds do, and whether settings differ by more."""
    figure = next(iter(_figures(judged, comparison)), None)
    if figure is None or kind_of(figure).better == 0:
        return []
    said, label = [], KINDS[figure].label
    for group, spreads in zip(comparison.groups, comparison.spreads, strict=True):
        if figure not in spreads:
            continue
        found, members = spreads[figure], ", ".join(names[i] for i in group)
        rows = max(_half(comparison.intervals[i][figure]) for i in group)
        of_rows = "" if math.isnan(rows) else f"; the rows leave each uncertain by {rows:.2g}"
        said.append(
            f"{members} differ in nothing but their seed: {label} "
            f"{written(figure, found.mean.value)} on average, {found.deviation:.2g} standard "
            f"deviation between {found.num_seeds} seeds{of_rows}."
        )
    grouped = {i: number for number, group in enumerate(comparison.groups) for i in group}
    return said + [
        sentence
        for i, found in sorted(comparison.differences[figure].items())
        if (sentence := _setting(judged, comparison, names, figure, i, found, grouped))
    ]


def _half(found: Interval) -> float:
    return (found.high - found.low) / 2


def _setting(
    judged: Sequence[Judged],
    comparison: Comparison,
    names: Sequence[str],
    figure: str,
    model: int,
    found: Difference,
    grouped: dict[int, int],
) -> str | None:
    """Say whether two settings differ by more than seeds do; None: nothing is known of seeds."""
    recipes = [judged[i].candidate.recipe for i in (model, found.best)]
    if None in recipes or found.same or not found.certain:
        return None
    name, best = names[model], names[found.best]
    if recipes[0] == recipes[1]:
        return f"{name} and {best} have the same settings: only chance stands between them."
    sides = [grouped.get(i) for i in (model, found.best)]
    spreads = [comparison.spreads[side].get(figure) if side is not None else None for side in sides]
    first, second = spreads
    if first is not None and second is not None:
        difference, certain = seeds_differ(first, second)
        verdict = (
            f"the setting of {best} is better"
            if certain
            else "within what seeds do: which setting is better is not settled"
        )
        return (
            f"The settings of {name} and {best}, over their seeds: difference "
            f"{difference_text(figure, difference)}: {verdict}."
        )
    several = first or second
    if several is None:
        return (
            f"{name} and {best} are one seed each: these two models differ, but whether their "
            f"settings do is not known; train more seeds."
        )
    single = model if first is None else found.best
    beyond = abs(comparison.intervals[single][figure].value - several.mean.value)
    reach = (
        student(several.num_seeds - 1) * several.deviation * math.sqrt(1 + 1 / several.num_seeds)
    )
    verdict = "more than" if beyond > reach else "within what"
    return (
        f"{names[single]} is one seed, and {beyond:.2g} from the mean of the other setting's "
        f"{several.num_seeds}: {verdict} another seed of that would do ({reach:.2g})."
    )
