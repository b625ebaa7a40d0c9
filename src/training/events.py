"""TensorBoard's file of points: what a run that goes on logs again, it logs once.

The file lies in the run folder itself, because TensorBoard calls a run by the folder of its file.
"""

import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.plugins.text.metadata import PLUGIN_NAME as TEXT
from tensorboard.summary.writer.event_file_writer import _AsyncWriterThread

from src.files import atomic
from src.training.checkpoint_file import read
from src.training.curves import OLDER
from src.training.shown import Histogram, markdown_table

SIZES = "event_sizes"  # in a checkpoint: bytes of each file of points, by its name
FLUSH_SECONDS = 10  # after which a page that is open may show a new point


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

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Write nothing: ``write`` takes the summaries of ``hparams``."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write the figures of a step as one record; Lightning takes one for each, and the time."""
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in metrics.items()]
        self.write(Summary(value=values), step or 0)

    @rank_zero_only
    def log_table(
        self, key: str, columns: list[str], data: list[list[str]], *, step: int | None = None
    ) -> None:
        """Show a table in the tab Text."""
        metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name=TEXT))
        text = markdown_table(columns, data).encode("utf-8", "replace")
        tensor = TensorProto(dtype="DT_STRING", string_val=[text])
        value = Summary.Value(tag=f"{key}/text_summary", metadata=metadata, tensor=tensor)
        self.write(Summary(value=[value]), step or 0)

    @rank_zero_only
    def log_histogram(self, key: str, histogram: Histogram, step: int) -> None:
        """Show a histogram in the tab Histograms."""
        edges, heights = histogram
        middles = (edges[1:] + edges[:-1]) / 2
        self.experiment.add_histogram_raw(
            key,
            min=float(edges[0]),
            max=float(edges[-1]),
            num=float(heights.sum()),
            sum=float(heights @ middles),
            sum_squares=float(heights @ middles**2),
            bucket_limits=edges[1:].tolist(),
            bucket_counts=heights.tolist(),
            global_step=step,
        )

    @rank_zero_only
    def write(self, summary: Summary, step: int = 0) -> None:
        """Write a summary that is made already."""
        self.experiment._get_file_writer().add_summary(summary, step)

    def sizes(self) -> dict[str, int]:
        """Bring to the disk what has been logged; return the bytes of each file, by its name."""
        self.experiment.flush()
        files = event_files(Path(self.log_dir))
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
    folder = events_folder(run_folder) if checkpoint is not None else run_folder
    purge_step = 0
    if checkpoint is not None:
        content = read(checkpoint, lambda file: torch.load(file, mmap=True, weights_only=True))
        purge_step = int(content["global_step"]) + 1  # for a TensorBoard that has read it already
        if rank == 0 and SIZES in content:
            _cut(folder, content[SIZES])
    elif rank == 0:
        for path in (*event_files(run_folder), *event_files(run_folder / OLDER)):
            path.unlink()
    return OneFileLogger(
        run_folder,
        name="",
        version="" if folder == run_folder else OLDER,
        default_hp_metric=False,
        purge_step=purge_step,
        flush_secs=FLUSH_SECONDS,
    )


def events_folder(run_folder: Path) -> Path:
    """Return where the files of points of a run are: in its folder; of an older run, below it."""
    older = run_folder / OLDER
    return older if event_files(older) else run_folder


def event_files(folder: Path) -> list[Path]:
    """Return the files of points: no link, and nothing else that lies there."""
    files = folder.glob("events.out.tfevents.*") if folder.is_dir() else ()
    return sorted(path for path in files if path.is_file() and not path.is_symlink())


def _cut(folder: Path, sizes: dict[str, Any]) -> None:
    """Cut files of points to what they held when the checkpoint was saved."""
    newest = 0
    for path in event_files(folder):
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
