"""Which run of a sweep is best, and what may be said of it."""

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from src.sweeps.names import short_keys, spelling, value_text
from src.sweeps.outcomes import PRUNED, Outcome, Results
from src.sweeps.state import GRID
from src.sweeps.yardstick import measured_otherwise, yardstick_sentences
from src.wording.command_line import command

SEED = "seed"
ROWS = "val/num_rows"  # in metrics.json: how many a validation scored
WIDEST = 10  # times: the step to a value that is named as the next
SAME = 0.02  # of numbers of tokens: a share by which packing may differ


@dataclass(frozen=True)
class Setting:
    """Runs that differ in nothing but their seed.

    Attributes:
        values: what was swept, but for the seed.
        runs: all of them.
        losses: of those that are ranked.
    """

    values: dict[str, Any]
    runs: tuple[Outcome, ...]
    losses: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean loss of its seeds; NaN without any."""
        return statistics.fmean(self.losses) if self.losses else math.nan

    @property
    def spread(self) -> float:
        """Standard deviation between its seeds; NaN with fewer than two."""
        return statistics.stdev(self.losses) if len(self.losses) > 1 else math.nan


def settings_of(results: Results) -> list[Setting]:
    """Return the settings, the best mean first, those without a loss last."""
    keys = [key for key in results.keys if key != SEED]
    groups: dict[str, list[Outcome]] = {}
    for run in results.outcomes:
        groups.setdefault(repr([run.values.get(key) for key in keys]), []).append(run)
    settings = [
        Setting(
            {key: runs[0].values.get(key) for key in keys},
            tuple(runs),
            tuple(run.loss for run in runs if run.is_ranked and run.loss is not None),
        )
        for runs in groups.values()
    ]
    return sorted(settings, key=lambda s: (not s.losses, s.mean if s.losses else 0.0))


def conclusions(results: Results) -> list[str]:
    """Return what is true of the sweep, a sentence each."""
    ranked = [run for run in results.outcomes if run.is_ranked]
    if not ranked:
        finished = results.count("finished")
        return ["no run has a validation loss: there is nothing to rank by"] if finished else []
    settings = [setting for setting in settings_of(results) if setting.losses]
    said = yardstick_sentences(results.keys, ranked, results.folder)
    if results.num_remaining == 0 and results.sweep.kind == GRID:
        said += _edges(results, settings)
    if len(settings) > 1 and not _measured_apart(*settings[:2]):
        said.append(seeds_sentence(settings))
    said += _tokens(results, [run for run in ranked if run.ending != PRUNED])
    said += _rows(results, ranked)
    if failed := results.count("failed"):
        said.append(f"{failed} of {results.num_jobs} runs failed, and cannot be compared")
    return said


def _measured_apart(first: Setting, second: Setting) -> bool:
    """Whether the losses of two settings are not of one kind."""
    return any(
        measured_otherwise(key) and first.values[key] != second.values.get(key)
        for key in first.values
    )


def is_number(value: Any) -> bool:
    """Whether a value has a place in an order."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _edges(results: Results, settings: Sequence[Setting]) -> list[str]:
    """Say where the best value of a key is the lowest or the highest that was tried."""
    best, shorts = settings[0], short_keys(results.keys)
    said = []
    for key, value in best.values.items():
        values: list[Any] = [run.values.get(key) for run in results.outcomes if _was_tried(run)]
        if measured_otherwise(key) or not all(is_number(v) for v in values):
            continue
        order: list[Any] = sorted(set(values))
        spell = spelling(order)
        if len(order) < 2 or value not in (order[0], order[-1]):
            continue
        word = "lowest" if value == order[0] else "highest"
        further = _further(order if value == order[-1] else order[::-1])
        if further is None and value == 0:
            continue  # nothing lies beyond
        hint = "" if further is None else f": try {key}={spell(further)}"
        said.append(
            f"the best is at an edge of the grid: {shorts[key]} {spell(value)} is the {word} "
            f"of {len(order)}{hint}"
        )
    return said


def _was_tried(run: Outcome) -> bool:
    """Whether a run shows something of its values: one that was refused does not."""
    return run.is_ranked or run.step > 0


def _further(order: Sequence[float]) -> float | None:
    """Return the next value beyond the end of ``order``; None where none suggests itself."""
    before, last = order[-2], order[-1]
    if before <= 0 or last <= 0:
        return None
    value = last * min(max(last / before, 1 / WIDEST), WIDEST)
    if all(isinstance(v, int) for v in order):
        return round(value) if round(value) >= 1 and round(value) != last else None
    if max(order) <= 1 < value:  # a share, perhaps
        return None
    return float(f"{value:.2g}")


def seeds_sentence(settings: Sequence[Setting]) -> str:
    """Say whether the difference of the best two settings is more than seeds do."""
    first, second = settings[:2]
    difference = second.mean - first.mean
    several = [s for s in settings if len(s.losses) > 1]
    one_each = len(first.losses) == len(second.losses) == 1
    start = "one seed a setting: " if one_each else ""
    if difference == 0:
        return "the best two settings have the same loss"
    if not several:
        return (
            f"{start}what another seed would change is not known, so the difference of "
            f"{difference:.4f} between the best two may be chance; see with seed=1,2,3"
        )
    from src.evaluation.comparison import student

    freedom = sum(len(s.losses) - 1 for s in several)
    pooled = math.sqrt(sum((len(s.losses) - 1) * s.spread**2 for s in several) / freedom)
    error = pooled * math.sqrt(1 / len(first.losses) + 1 / len(second.losses))
    if difference <= student(freedom) * error:
        verdict = "is within what seeds do: which is better is not settled"
    else:
        verdict = "is more than seeds do"
    return (
        f"{start}the difference of {difference:.4f} between the best two settings {verdict} "
        f"(standard deviation between seeds: {pooled:.4f})"
    )


def _tokens(results: Results, whole: Sequence[Outcome]) -> list[str]:
    """Say which values saw more tokens than others, where all else was the same."""
    keys = results.keys
    shorts, said = short_keys(keys), []
    for key in keys:
        totals = _tokens_by_value(key, results, whole)
        if len(totals) < 2:
            continue
        (low, fewest), (high, most) = (
            f(totals.items(), key=lambda item: item[1]) for f in (min, max)
        )
        if fewest > 0 and most / fewest > 1 + 5 * SAME:
            said.append(
                f"{shorts[key]} {high} saw {_times(most / fewest)} the tokens of "
                f"{shorts[key]} {low}: a part of what differs may come from that"
            )
    return said


def _tokens_by_value(key: str, results: Results, runs: Sequence[Outcome]) -> Mapping[str, float]:
    """Return the tokens seen for each value of a key, if it alone decides them."""
    by_others: dict[str, dict[str, list[float]]] = {}
    for run in runs:
        if tokens := run.figures.get("num_tokens"):
            others = repr([run.values.get(other) for other in results.keys if other != key])
            text = value_text(results.shown(run.values.get(key)))
            by_others.setdefault(others, {}).setdefault(text, []).append(tokens)
    whole = max((set(group) for group in by_others.values()), key=len, default=set())
    groups = [group for group in by_others.values() if set(group) == whole]
    for a, b in itertools.combinations(whole, 2):
        ratios = [statistics.fmean(group[a]) / statistics.fmean(group[b]) for group in groups]
        if max(ratios) > min(ratios) * (1 + 5 * SAME):
            return {}
    return {value: statistics.fmean(groups[0][value]) for value in whole} if groups else {}


def _rows(results: Results, ranked: Sequence[Outcome]) -> list[str]:
    """Say that the losses are not of the same rows, where runs had time for fewer of them."""
    counts = {int(run.figures[ROWS]) for run in ranked if ROWS in run.figures}
    if len(counts) < 2:
        return []
    return [
        f"validated on {min(counts):,} to {max(counts):,} rows, as the length of the runs allowed: "
        f"a part of what differs may come from that; trainer.max_val_blocks=null takes all rows, "
        f"and this compares on the same: {command('evaluate', model_path=results.folder)}"
    ]


def _times(ratio: float) -> str:
    for number, word in ((2, "twice"), (3, "three times"), (4, "four times")):
        if abs(ratio - number) < number * SAME:
            return word
    return f"{ratio:.1f} times"
