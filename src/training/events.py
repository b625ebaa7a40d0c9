"""TensorBoard's file of points: what a run that goes on logs again, it logs once."""

import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import TensorBoardLogger

TENSORBOARD = "tensorboard"  # in the run folder
SIZES = "event_sizes"  # in a checkpoint: bytes of each file of points, by its name


class OneFileLogger(TensorBoardLogger):
    """Writes one event file from the beginning of a process to its end.

    Lightning would close it after each of validate, fit and test, and begin another. TensorBoard
    may read two files that began in one second in the wrong order, and drop the earlier one.
    """

    def finalize(self, status: str) -> None:
        """Flush; whoever owns the run closes it."""
        self.experiment.flush()

    def sizes(self) -> dict[str, int]:
        """Write down what has been logged; return the bytes of each file, by its name."""
        self.experiment.flush()
        found = {}
        for path in _event_files(Path(self.log_dir)):
            with path.open("rb+") as file:
                os.fsync(file.fileno())
                found[path.name] = path.stat().st_size
        return found


def open_logger(run_folder: Path, checkpoint: Path | None, rank: int) -> OneFileLogger:
    """Return the logger of a run, which goes on from ``checkpoint`` or begins.

    What was logged after the checkpoint will be logged again: it is cut off. Without a checkpoint
    the run begins, and what an earlier beginning has logged is removed.
    """
    folder = run_folder / TENSORBOARD
    purge_step = 0
    if checkpoint is not None:
        content = torch.load(checkpoint, mmap=True, weights_only=True)
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
