"""The list of runs as people and as programs read it."""

import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.cells import cell_len, set_cell_size

from src.records.runs import DATE, Run, Sweep

HEADER = ("when", "name", "model", "data", "steps", "val loss", "exact", "status", "size")
TO_THE_RIGHT = {"steps", "val loss", "exact", "size"}
# Columns that are cut where there is no room, and what is left of each at least.
LEAST = {"name": 14, "data": 8, "model": 8}
GAP = "  "
INDENT = "  "
FACTORS = (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3))


def table_lines(entries: Sequence[Run | Sweep], folder: Path, width: int) -> list[str]:
    """Return the table, at most ``width`` cells wide, then what is broken, then a sum."""
    if not entries:
        return [f"no runs in {_plain(str(folder))}"]
    rows: list[tuple[str, ...]] = [HEADER]
    for entry in entries:
        if isinstance(entry, Run):
            rows.append(_row(entry))
        else:
            rows.append(_sweep_row(entry))
            rows += [_row(job, is_job=True) for job in entry.jobs]
    widths = _widths(rows, width)
    lines = [_line(row, widths) for row in rows]
    runs = list(_runs(entries))
    notes = ["", *_problems(runs, folder), _sum(runs, folder)]
    return [*lines, *(line for note in notes for line in _wrapped(note, width))]


def as_json(entries: Sequence[Run | Sweep]) -> Iterator[dict[str, Any]]:
    """Yield the plain values of each run; ``sweep`` is the folder of its sweep, or None."""
    for entry in entries:
        sweep = None if isinstance(entry, Run) else str(entry.folder)
        for run in [entry] if isinstance(entry, Run) else entry.jobs:
            values = {"folder": str(run.folder), "sweep": sweep}
            values |= {key: value for key, value in vars(run).items() if key not in values}
            yield values | {"started": run.started.astimezone().isoformat()}


def _runs(entries: Sequence[Run | Sweep]) -> Iterator[Run]:
    for entry in entries:
        if isinstance(entry, Run):
            yield entry
        else:
            yield from entry.jobs


def _row(run: Run, is_job: bool = False) -> tuple[str, ...]:
    steps = "" if run.step is None and run.num_steps is None else f"{run.step or 0:,}"
    if run.num_steps and run.step != run.num_steps:
        steps += f"/{run.num_steps:,}"
    name = _plain(run.folder.name)
    return (
        "" if is_job else _when(run),
        INDENT + name if is_job else _short(run.folder),
        _plain(run.model or ""),
        _plain(run.data or ""),
        steps,
        "" if run.val_loss is None else f"{run.val_loss:.4f}"[:8],
        "" if run.exact_match is None else f"{run.exact_match:.1%}",
        run.state,
        _size(run.num_bytes),
    )


def _sweep_row(sweep: Sweep) -> tuple[str, ...]:
    losses = [job.val_loss for job in sweep.jobs if job.val_loss is not None]
    num_done = sum(job.state == "finished" for job in sweep.jobs)
    return (
        _when(sweep),
        _short(sweep.folder),
        f"{sweep.num_jobs} jobs",
        "",
        "",
        f"{min(losses):.4f}"[:8] if losses else "",
        "",
        "finished" if num_done == sweep.num_jobs > 0 else f"{num_done} of {sweep.num_jobs}",
        _size(sum(job.num_bytes for job in sweep.jobs)),
    )


def _when(entry: Run | Sweep) -> str:
    """Return the time in the folder's name, so that it can be typed; else that of the start."""
    match = DATE.fullmatch(entry.folder.name)
    return f"{match[1]}_{match[2]}" if match else f"{entry.started:%Y-%m-%d_%H-%M-%S}"


def _short(folder: Path) -> str:
    """Return what a folder is called beside the time of its start."""
    match = DATE.fullmatch(folder.name)
    return _plain(match[3] or "" if match else folder.name)


def _problems(runs: Sequence[Run], folder: Path) -> list[str]:
    """Return a line for each run that failed or is broken."""
    lines = []
    for run in runs:
        if run.state not in ("failed", "broken", "not begun"):
            continue
        path = run.folder.relative_to(folder) if run.folder != folder else run.folder
        reason = f": {_plain(run.reason)}" if run.reason else ""
        lines.append(f"{run.state}: {_plain(str(path))}{reason}")
    return [*lines, ""] if lines else []


def _sum(runs: Sequence[Run], folder: Path) -> str:
    states = Counter(run.state for run in runs)
    named = ", ".join(f"{count} {state}" for state, count in states.most_common())
    total = _size(sum(run.num_bytes for run in runs))
    runs_are = "1 run" if len(runs) == 1 else f"{len(runs):,} runs"
    return f"{runs_are} in {_plain(str(folder))} ({named}), {total}; a folder is <when>_<name>"


def _size(num_bytes: int) -> str:
    for unit, factor in FACTORS:
        if num_bytes >= factor:
            return f"{num_bytes / factor:.1f} {unit}"
    return f"{num_bytes} B"


def _plain(text: str) -> str:
    """Return text without what a terminal obeys, on one line."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, subsequent_indent=INDENT, break_on_hyphens=False) or [""]


def _widths(rows: Sequence[Sequence[str]], width: int) -> list[int]:
    """Return the width of each column, together ``width`` at most where that can be."""
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    excess = sum(widths) + len(GAP) * (len(widths) - 1) - width
    for name, least in LEAST.items():
        index = HEADER.index(name)
        cut = max(0, min(excess, widths[index] - least))
        widths[index] -= cut
        excess -= cut
    return widths


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = []
    for name, text, width in zip(HEADER, row, widths, strict=True):
        if cell_len(text) > width:
            text = set_cell_size(text, width - 1) + "…"
        blank = " " * (width - cell_len(text))
        cells.append(blank + text if name in TO_THE_RIGHT else text + blank)
    return GAP.join(cells).rstrip()
