"""TensorBoard's file of points: what a run that goes on logs again, it logs once."""

import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.summary.writer.event_file_writer import _AsyncWriterThread

from src import atomic
from src.training.checkpoint_file import read

TENSORBOARD = "tensorboard"  # in the run folder
SIZES = "event_sizes"  # in a checkpoint: bytes of each file of points, by its name


class OneFileLogger(TensorBoardLogger):
    """Writes one event file from the beginning of a process to its end.

    Lightning would close it after each of validate, fit and test, and begin another. TensorBoard
    may read two files that began in one second in the wrong order, and drop the earlier one.
    """

    def save(self) -> None:
        """Flush; Lightning would write an empty file of hyperparameters, too."""
        self.experiment.flush()

    def finalize(self, status: str) -> None:
        """Flush; whoever owns the run closes it."""
        with _after_an_error():
            self.experiment.flush()

    def close(self) -> None:
        """Write what is left, and end."""
        with _after_an_error():
            self.experiment.close()

    def sizes(self) -> dict[str, int]:
        """Bring to the disk what has been logged; return the bytes of each file, by its name."""
        self.experiment.flush()
        files = _event_files(Path(self.log_dir))
        atomic.flush(files)
        return {path.name: path.stat().st_size for path in files}


@contextmanager
def _after_an_error() -> Iterator[None]:
    """Let the error that ends a run be the one that is told, where a full disk is met twice."""
    is_under_way = sys.exception() is not None
    try:
        yield
    except OSError:
        if not is_under_way:
            raise


def _leave_to_the_writer(failure: threading.ExceptHookArgs) -> None:
    """Print no traceback of TensorBoard's thread: its writer raises the error where it is used."""
    if not isinstance(failure.thread, _AsyncWriterThread):
        threading.__excepthook__(failure)


def open_logger(run_folder: Path, checkpoint: Path | None, rank: int) -> OneFileLogger:
    """Return the logger of a run, which goes on from ``checkpoint`` or begins.

    What was logged after the checkpoint will be logged again: it is cut off. Without a checkpoint
    the run begins, and what an earlier beginning has logged is removed.
    """
    threading.excepthook = _leave_to_the_writer
    folder = run_folder / TENSORBOARD
    purge_step = 0
    if checkpoint is not None:
        content = read(checkpoint, lambda file: torch.load(file, mmap=True, weights_only=True))
        purge_step = int(content["global_step"]) + 1  # for a TensorBoard that has read it already
        if rank == 0 and SIZES in content:
            _cut(folder, content[SIZES])
    elif rank == 0:
        shutil.rmtree(folder, ignore_errors=True)
    return OneFileLogger(
        run_folder,
        name="",
        version=TENSORBOARD,
        default_hp_metric=False,
        purge_step=purge_step,
    )


def _cut(folder: Path, sizes: dict[str, Any]) -> None:
    """Cut files of points to what they held when the checkpoint was saved."""
    newest = 0
    for path in _event_files(folder):
        size = sizes.get(path.name)
        if size is None:
            path.unlink()
            continue
        newest = max(newest, *(int(part) for part in path.name.split(".") if part.isdecimal()), 0)
        if path.stat().st_size > size:
            os.truncate(path, size)
    # Files are read in the order of their names, which hold the second of their beginning.
    while int(time.time()) == newest:
        time.sleep(0.05)


def _event_files(folder: Path) -> list[Path]:
    """Return the files of points: no link, and nothing else that lies there."""
    files = folder.glob("events.out.tfevents.*") if folder.is_dir() else ()
    return sorted(path for path in files if path.is_file() and not path.is_symlink())
