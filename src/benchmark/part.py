"""A part of the benchmark: its name, its variants, and how its figures are shown."""

import re
import textwrap
from collections.abc import Sequence
from typing import Any

import torch

from src.benchmark.config import BenchmarkConfig
from src.benchmark.turns import Job, Measured, Variant, take_turns

Figures = dict[str, Any]  # what benchmark.json holds


class Part:
    """What parts share; most say only name, speed, ratios and variants."""

    name: str
    speed: str = ""  # what a variant's speed is called in benchmark.json
    ratios: tuple[tuple[str, str], ...] = ()  # how many times faster the first is than the second
    in_all = True  # False: it takes minutes and more, so it is measured by its own name only

    def variants(self, device: torch.device) -> list[Variant]:
        """Return what takes turns."""
        return []

    def measure(self, config: BenchmarkConfig, job: Job) -> Figures:
        """Return the part's figures.

        ``config`` names rows as a person asked for them; ``job.config`` those that all share.
        """
        return self.figures(take_turns(self.name, self.variants(job.device), job))

    def figures(self, measured: dict[str, Measured]) -> Figures:
        """Return ``<part>.<variant>.<figure>``, and ``ratio.<part>.<variant>_to_<other>``.

        A ratio is that of the medians; its spread is that of the ratios of each round.
        """
        figures: Figures = {}
        for name, variant in measured.items():
            key = f"{self.name}.{name}"
            figures |= {
                f"{key}.{self.speed}": variant.per_second,
                f"{key}.spread": [min(variant.speeds), max(variant.speeds)],
                f"{key}.repeats": variant.speeds,
                f"{key}.peak_memory_bytes": max(r.peak_memory_bytes for r in variant.repeats),
            }
            if variant.setting:
                figures[f"{key}.setting"] = dict(variant.setting)
            if variant.tried:
                figures[f"{key}.settings"] = variant.tried
        for name, other in self.ratios:
            if name in measured and other in measured:
                a, b = measured[name], measured[other]
                each = [x / y for x, y in zip(a.speeds, b.speeds, strict=True)]
                key = f"ratio.{self.name}.{name}_to_{other}"
                figures[key] = a.per_second / b.per_second
                figures[f"{key}.spread"] = [min(each), max(each)]
        return figures

    def show(self, figures: Figures) -> list[str]:
        """Return the part's paragraphs of Markdown; none where ``figures`` have nothing of it."""
        key = re.compile(rf"{self.name}\.(\w+)\.{self.speed}")
        names = [match[1] for match in map(key.fullmatch, figures) if match]
        if not names:
            return []
        sentences = [
            f"{name} is {ratio} {other}."
            for name, other in self.ratios
            if name != "ours" and (ratio := self.ratio(figures, name, other))
        ]
        table = markdown_table([self.row(figures, name) for name in names])
        return [table, *([textwrap.fill(" ".join(sentences), 100)] if sentences else [])]

    def row(self, figures: Figures, name: str) -> dict[str, str]:
        """Return the cells of a variant by heading."""
        key = f"{self.name}.{name}"
        unit = self.speed.replace("_per_second", "/s").replace("_", " ")
        return {
            self.name: name,
            unit: with_spread(figures, f"{key}.{self.speed}", f"{key}.spread", ",.0f"),
            "ours is": self.ratio(figures, "ours", name),
            "memory": f"{figures[f'{key}.peak_memory_bytes'] / 2**30:.2f} GiB",
        }

    def ratio(self, figures: Figures, name: str, other: str) -> str:
        """Return how many times faster ``name`` is, or nothing."""
        key = f"ratio.{self.name}.{name}_to_{other}"
        return with_spread(figures, key, f"{key}.spread", ".2f", "x") if key in figures else ""


def markdown_table(rows: Sequence[dict[str, str]]) -> str:
    """Return a table of ``rows``, each its cells by heading; the first column stands left."""
    lines = [list(rows[0]), *(list(row.values()) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    return "\n".join(
        f"| {' | '.join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])} |"
        for line in lines
    )


def with_spread(figures: Figures, key: str, spread_key: str, form: str, unit: str = "") -> str:
    """Return a figure and, where they differ, the least and the greatest of its repeats."""
    low, high = (f"{value:{form}}" for value in figures[spread_key])
    spread = f" ({low} - {high})" if low != high else ""
    return f"{figures[key]:{form}}{unit}{spread}"
