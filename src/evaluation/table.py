"""The figures as a table of at most 100 columns."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from src.evaluation.comparison import Comparison
from src.evaluation.conclusions import short_names
from src.evaluation.figures import KINDS, written
from src.evaluation.intervals import Interval
from src.evaluation.text_figures import missing_libraries

WIDTH = 100
LABEL = max(len(kind.label) for kind in KINDS.values()) + 2
VALUE, RANGE = 11, 17  # columns of a value and of its interval
CELL = VALUE + RANGE
AT_A_TIME = (WIDTH - LABEL) // CELL  # models beside each other


def title_lines(facts: Mapping[str, Any]) -> list[str]:
    """Return what was judged, and on which rows."""
    data, settings = facts["data"], facts["settings"]
    title = (
        f"{data['num_rows']:,} rows of {data['source']} ({data['rows']}): {data['num_scored']:,} "
        f"scored, {data['num_asked']:,} asked; 95% intervals of {settings['num_resamples']:,} draws"
    )
    lines = [title, f"rows: {data['origin']}"] if "origin" in data else [title]
    return [part for line in lines for part in textwrap.wrap(line, WIDTH, break_long_words=False)]


def missing_lines() -> list[str]:
    """Return a line that names the figures that were left out, if any were."""
    missing = missing_libraries()
    if not missing:
        return []
    return [
        f"left out: {', '.join(missing)}: {', '.join(missing.values())} not installed; "
        f"pip install 'gpt2-chat[eval]'"
    ]


def table_lines(
    names: Sequence[str], comparison: Comparison, sentences: Sequence[str]
) -> list[str]:
    """Return the figures of all rows, a column a model, and the sentences below them.

    Each figure has its 95% interval; a star marks the best, where another is certainly worse.
    """
    short = short_names(names)
    lines: list[str] = []
    for first in range(0, len(names), AT_A_TIME):
        models = range(first, min(first + AT_A_TIME, len(names)))
        head = "".join(f"{_fitted(short[i]):>{CELL}}" for i in models)
        lines += ["", f"{'':<{LABEL}}{head}".rstrip()]
        for figure, kind in KINDS.items():
            found = [comparison.intervals[i].get(figure) for i in models]
            if any(each is not None for each in found):
                best = _best(comparison, figure)
                cells = "".join(
                    _cell(figure, each, i in best) for i, each in zip(models, found, strict=True)
                )
                lines.append(f"{kind.label:<{LABEL}}{cells}".rstrip())
    if any(_best(comparison, figure) for figure in KINDS):
        lines += ["", "*: the best, where another is certainly worse"]
    if sentences:
        lines.append("")
    for sentence in sentences:
        lines += textwrap.wrap(
            sentence,
            WIDTH,
            initial_indent="- ",
            subsequent_indent="  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    return lines


def _fitted(name: str) -> str:
    """Return a name in the width of a cell: its beginning and its end."""
    most = CELL - 2
    return name if len(name) <= most else f"{name[: most // 2 - 1]}…{name[-(most // 2) :]}"


def _best(comparison: Comparison, figure: str) -> set[int]:
    """Return the numbers of the models that another is certainly worse than."""
    return {
        found.best for found in comparison.differences.get(figure, {}).values() if found.certain
    }


def _cell(figure: str, found: Interval | None, is_best: bool) -> str:
    if found is None:
        return f"{'- ':>{VALUE}}{'':{RANGE}}"
    value = written(figure, found.value)
    ends = "" if math.isnan(found.low) else "..".join(_short(figure, end) for end in found[1:])
    return f"{value:>{VALUE - 1}}{'*' if is_best else ' '}{ends:>{RANGE}}"


def _short(figure: str, value: float) -> str:
    """Return an end of an interval with as few digits as say something."""
    form = KINDS[figure].form
    if "%" in form:
        return f"{100 * value:.1f}"
    if 1000 <= abs(value) < 1e6:
        return f"{value:,.0f}"
    return f"{value:.3f}" if form == "{:.4f}" else written(figure, value)
