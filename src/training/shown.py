"""What a board shows beside curves: tables of text, and histograms.

TensorBoard and Weights & Biases are boards; ``history.csv`` is none.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import lightning as L
import numpy as np

BINS = 30  # as many as TensorBoard draws

# What Markdown or HTML would read in a cell of a table; each becomes a character reference.
MARKS = re.compile(r"[\\`*_\[\]<>&|]")


class Histogram(NamedTuple):
    """Bars side by side."""

    edges: np.ndarray  # (bars + 1,)
    heights: np.ndarray  # (bars,)


@runtime_checkable
class Board(Protocol):
    """A logger that shows more than figures; Lightning's own name and arguments for the table."""

    def log_table(
        self, key: str, columns: list[str], data: list[list[str]], *, step: int | None = None
    ) -> None:
        """Show a table of plain text."""
        ...

    def log_histogram(self, key: str, histogram: Histogram, step: int) -> None:
        """Show a histogram."""
        ...


def boards(trainer: L.Trainer) -> list[Board]:
    """Return the boards of a run."""
    return [logger for logger in trainer.loggers if isinstance(logger, Board)]


def histogram(values: np.ndarray) -> Histogram:
    """Return how often each of some whole numbers, or of shares up to 1, occurs."""
    low, high = float(values.min()), float(values.max())
    if np.issubdtype(values.dtype, np.integer):  # bars of whole width, each value inside one
        width = max(1, -(-int(high - low + 1) // BINS))
        edges = low - 0.5 + width * np.arange(-(-int(high - low + 1) // width) + 1)
    else:
        edges = np.linspace(0.0, max(high, 1.0), BINS + 1)
    heights, _ = np.histogram(values, edges)
    return Histogram(edges, heights)


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown whose cells show plain text as it is, line breaks included."""
    head, *body = ([_cell(cell) for cell in row] for row in (columns, *rows))
    lines = [head, ["---"] * len(columns), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    text = "".join(
        c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text
    )
    text = MARKS.sub(lambda mark: f"&#{ord(mark[0])};", text)
    return "<br>".join(line.strip() for line in text.strip().split("\n")) or " "
