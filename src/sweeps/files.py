"""What a sweep leaves in its folder: ``results.csv`` and ``sweep.png``."""

import csv
import io
from pathlib import Path

from src import atomic
from src.sweeps.outcomes import ACCURACY, LOSS, Results, sorted_by_loss

RESULTS, PICTURE = "results.csv", "sweep.png"
FIGURES = ("num_tokens", "train_seconds")


def write_files(results: Results, with_picture: bool = True) -> tuple[list[Path], list[str]]:
    """Write both files; return their paths, and what is left out of the picture, a line each.

    Without a loss there is no picture.

    Raises:
        disk.Unwritten: the disk refuses.
    """
    paths, left_out = [results.folder / RESULTS], []
    atomic.write_text(paths[0], csv_text(results), sweeps=False)
    if with_picture and any(run.loss is not None for run in results.outcomes):
        from src.sweeps.picture import draw

        paths.append(results.folder / PICTURE)
        with atomic.file(paths[1], sweeps=False) as temporary:
            left_out = draw(results, temporary)
    return paths, left_out


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
