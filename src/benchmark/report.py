"""Figures as Markdown that is easy to read in a terminal too."""

import textwrap
from collections.abc import Sequence
from typing import Any

Figures = dict[str, Any]  # what benchmark.json holds

WIDTH = 100
LIBRARIES = ("torch", "lightning", "transformers", "tokenizers", "datasets", "trl", "numpy")


def markdown_table(rows: Sequence[dict[str, str]]) -> str:
    """Return a table of ``rows``, each its cells by heading; the first column stands left."""
    headings = list(dict.fromkeys(heading for row in rows for heading in row))
    lines = [headings, *([row.get(heading, "") for heading in headings] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    return "\n".join(
        f"| {' | '.join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])} |"
        for line in lines
    )


def gibibytes(num_bytes: float) -> str:
    """Return a size as people read it."""
    return f"{num_bytes / 2**30:.2f} GiB"


def with_spread(figures: Figures, key: str, spread_key: str, form: str, unit: str = "") -> str:
    """Return a figure and, where they differ, the least and the greatest of its repeats."""
    low, high = (f"{value:{form}}" for value in figures[spread_key])
    spread = f" ({low} - {high})" if low != high else ""
    return f"{figures[key]:{form}}{unit}{spread}"


def document(figures: Figures, paragraphs: Sequence[str]) -> str:
    """Return ``paragraphs``, and under them what was measured, where and of which code."""
    machine = {key[8:]: value for key, value in figures.items() if key.startswith("machine.")}
    changes = " and changes" if figures.get("git.dirty") else ""
    driver = f" (driver {machine['driver']})" if "driver" in machine else ""
    peaks = [
        f"{machine[f'matmul_{name}_flops'] / 1e12:.3g} TFLOP/s in {name}"
        for name in ("fp32", "bf16", "fp16")
        if f"matmul_{name}_flops" in machine
    ]
    facts = [
        f"`{figures.get('command', 'python -m src.benchmark')}` on {figures.get('date', '?')}, "
        f"commit {figures.get('git.commit', '?')[:12]}{changes}.",
        f"{figures['rows.num']:,} rows of {figures['rows.source']} of "
        f"{figures['rows.mean_tokens']:.0f} tokens, {figures['rows.supervised_share']:.0%} of them "
        f"supervised; steps of {figures['batch_size']} x {figures['rows.block_size']:,} positions; "
        f"{figures.get('model.n_layer', '?')} layers of width {figures.get('model.n_embd', '?')}.",
        f"{machine['device']}{driver}, {machine['processor']}, {machine['cores']} cores, "
        f"{machine['threads']} threads, {gibibytes(machine['memory_bytes'])}, "
        f"{machine['precision']}{'; matmul ' if peaks else ''}{', '.join(peaks)}.",
        f"Python {machine['python']}, "
        + ", ".join(f"{name} {machine[name]}" for name in LIBRARIES if name in machine)
        + ".",
    ]
    whole = [
        text if text.startswith("|") else textwrap.fill(text, WIDTH, break_on_hyphens=False)
        for text in (*paragraphs, " ".join(facts))
    ]
    return "\n\n".join(whole) + "\n"
