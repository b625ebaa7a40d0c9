"""What a sweep leaves in its folder: ``results.csv`` and ``sweep.png``."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from src.files import atomic
from src.sweeps.outcomes import ACCURACY, LOSS, Results, sorted_by_loss
from src.sweeps.table import next_lines, result_lines

RESULTS, PICTURE = "results.csv", "sweep.png"
FIGURES = ("num_tokens", "train_seconds")


def write_csv(results: Results) -> Path:
    """Write ``results.csv``; return its path.

    Raises:
        disk.Unwritten: the disk refuses.
    """
    path = results.folder / RESULTS
    atomic.write_text(path, csv_text(results), sweeps=False)
    return path


def write_picture(results: Results) -> tuple[list[Path], list[str]]:
    """Write ``sweep.png``; return its path, and what is left out of it, a line each.

    Without a loss there is none.

    Raises:
        disk.Unwritten: the disk refuses.
    """
    if all(run.loss is None for run in results.outcomes):
        return [], []
    from src.sweeps.picture import draw  # half a second

    path = results.folder / PICTURE
    with atomic.file(path, sweeps=False) as temporary:
        left_out = draw(results, temporary)
    return [path], left_out


def report(results: Results) -> Iterator[str]:
    """Write both files and yield the lines that say how the sweep went, as they are known.

    Raises:
        disk.Unwritten: the disk refuses.
    """
    table = write_csv(results)
    yield from result_lines(results)
    picture, left_out = write_picture(results)
    yield from [*next_lines(results, [table, *picture]), *left_out]


def csv_text(results: Results) -> str:
    """Return ``results.csv``: a row for each run, the best first; RFC 4180 but for its line ends.

    ``folder`` is relative to the sweep's. ``rank`` is empty for a run that cannot be compared.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = ["rank", "status", "reason", *results.keys, LOSS, ACCURACY, *FIGURES, "folder"]
    writer.writerow(head)
    for rank, run in enumerate(sorted_by_loss(results.outcomes), 1):
        tokens = run.figures.get("num_tokens")
        writer.writerow(
            [
                rank if run.is_ranked else "",
                run.state,
                run.reason or "",
                *(_plain(run.values.get(key)) for key in results.keys),
                "" if run.loss is None else run.loss,
                run.figures.get(ACCURACY, ""),
                "" if tokens is None else int(tokens),
                run.figures.get("train_seconds", ""),
                run.folder,
            ]
        )
    return text.getvalue()


def _plain(value: object) -> object:
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else value
