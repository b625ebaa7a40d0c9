"""``history.csv``: the figures of a run as a plain table, for any program and any other logger.

A row for each step at which something was logged: ``step``, ``tokens`` trained on until then,
``seconds`` of training (validation not counted), then a column for each figure, empty where it was
not logged. The file is valid CSV at all times: a row is one write at the end, and where a column is
new or a row gets shorter, a new file takes the place of the old one.
"""

import csv
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from src.files import atomic, disk
from src.training.curves import FIRST_COLUMNS, read_history


class History(Logger):
    """Writes the table; on rank 0 only.

    Args:
        path: of the file.
        totals: returns the tokens trained on until now, and the seconds of training.
        step: of the checkpoint that the run goes on from: later rows are left out, for they will be
            logged again; None: the run begins, and an older file is removed.
        rank: of this process.
    """

    def __init__(
        self,
        path: Path,
        totals: Callable[[], tuple[int, float]],
        step: int | None = None,
        rank: int = 0,
    ):
        super().__init__()
        self.path = path
        self.totals = totals
        self.columns = list(FIRST_COLUMNS)
        self.row: dict[str, str] = {}  # the last one
        self.start = self.end = 0  # where the last row stands in the file, in bytes
        self.file: io.FileIO | None = None
        if rank == 0:
            self._begin(step)

    @property
    def name(self) -> str:
        return "history"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Write nothing: the settings are in ``run.json``."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add ``metrics`` to the row of ``step``.

        Raises:
            disk.Unwritten: the disk refuses.
        """
        metrics = {name: v for name, v in metrics.items() if name not in FIRST_COLUMNS}
        if self.row.get("step") != str(step):
            tokens, seconds = self.totals()
            values = (str(step), str(tokens), f"{seconds:.3f}")
            self.row = dict(zip(FIRST_COLUMNS, values, strict=True))
            self.start = self.end
        self.row |= {name: repr(float(value)) for name, value in metrics.items()}
        new = [name for name in metrics if name not in self.columns]
        line = _line([self.row.get(name, "") for name in [*self.columns, *new]])
        if self.file is None or new or self.start + len(line) < self.end:
            self.columns += new
            before = [row for row in read_history(self.path) if row["step"] != str(step)]
            self._rewrite([*before, self.row])
            return
        with disk.writing(self.path):
            self._write(line)

    def flush(self) -> None:
        """Bring to the disk what has been logged."""
        if self.file is not None:
            atomic.flush([self.path])

    def close(self) -> None:
        """Let go of the file."""
        if self.file is not None:
            self.file.close()
            self.file = None

    def _begin(self, step: int | None) -> None:
        if step is None:
            self.path.unlink(missing_ok=True)
            return
        rows = [row for row in read_history(self.path) if int(row["step"]) <= step]
        # What has appeared in later rows only will appear again.
        filled = {name: True for row in rows for name, value in row.items() if value}
        names = list(rows[0]) if rows else []
        self.columns += [n for n in names if n in filled and n not in FIRST_COLUMNS]
        if rows:
            self._rewrite(rows)

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        lines = [_line([row.get(name, "") for name in self.columns]) for row in rows]
        self.close()  # Windows replaces no file that is open
        atomic.write_bytes(self.path, b"".join([_line(self.columns), *lines]))
        self.row = rows[-1]
        self.end = self.path.stat().st_size
        self.start = self.end - len(lines[-1])
        self.file = io.FileIO(self.path, "r+b")

    def _write(self, line: bytes) -> None:
        assert self.file is not None
        self.file.seek(self.start)
        try:
            done = self.file.write(line)
            if done < len(line):  # a disk that is nearly full takes a part, and then refuses
                self.file.write(line[done:])
        except OSError:
            self.file.truncate(self.start)
            raise
        self.end = self.start + len(line)


def _line(values: list[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue().encode()
