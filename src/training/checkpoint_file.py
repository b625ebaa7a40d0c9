"""The file of a checkpoint: what ``torch.save`` writes, and after it a SHA-256 of all that.

torch and zipfile do not check the directory of such a file, and one bit there gives other numbers.
The checksum is a line of text behind the archive, which their readers pass over::

    head -c -72 last.ckpt | sha256sum   # is what this says:
    tail -c 72 last.ckpt
"""

import hashlib
import logging
import os
import pickle
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, cast

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from src import phases
from src.errors import UserError
from src.files import atomic
from src.files.disk import BROKEN
from src.hub import first_line
from src.progress import Progress
from src.training.zip_archive import is_consistent

log = logging.getLogger(__name__)

LABEL = b"sha256 "
TRAILER = len(LABEL) + 64 + 1  # bytes: the label, the digest in hexadecimal, a line feed
SECONDS = 3.0  # within which a disk may give two changes of a file one time
PIECE = 2**22  # bytes that are read at a time
MANY = 2**26  # bytes that are flushed at a time
MB = 10**6
SMALL = 2**16  # bytes that are not worth a thread
PREVIOUS = "previous.ckpt"

Signature = tuple[int, ...]
_whole: dict[Path, Signature] = {}  # files that this process has written or checked, as they were


class Hashing:
    """A file whose SHA-256 is computed while it is written, beside the writing.

    The disk is kept busy, too: what is written is flushed in the background, so that hashing costs
    no time of its own. A context; at its end both are done.

    Args:
        file: takes what is written.
        progress: counts its megabytes.
    """

    def __init__(self, file: IO[bytes], progress: Progress):
        self.file, self.progress = file, progress
        self.digest = hashlib.sha256()
        self.threads = ThreadPoolExecutor(2)
        self.flushed: Future[None] | None = None
        self.num_unflushed = self.num_written = 0

    def __enter__(self) -> "Hashing":
        return self

    def __exit__(self, *_: Any) -> None:
        self.threads.shutdown()
        if self.flushed is not None:
            self.flushed.result()

    def write(self, data: Any) -> int:
        """Write ``data``; torch gives views of tensors, which end with the call."""
        if len(data) < SMALL:
            self.digest.update(data)
            return self.file.write(data)
        hashed = self.threads.submit(self.digest.update, data)
        try:
            number = self.file.write(data)
            self.num_written += number
            self.progress.add(self.num_written // MB - self.progress.done)
            self._flush_in_the_background(number)
        finally:
            hashed.result()
        return number

    def flush(self) -> None:
        """Do nothing: the file is flushed when it is whole."""

    def _flush_in_the_background(self, number: int) -> None:
        self.num_unflushed += number
        if self.num_unflushed < MANY or not hasattr(os, "fdatasync"):
            return
        if self.flushed is not None:
            if not self.flushed.done():
                return
            self.flushed.result()  # the system tells of an error once
        self.num_unflushed = 0
        self.flushed = self.threads.submit(os.fdatasync, self.file.fileno())


def write(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint with its checksum; the older file, if it is whole, is kept beside it.

    A damaged one is replaced, and the one before it stays.

    Raises:
        disk.Unwritten: the disk refuses; all files are as they were.
    """
    previous: Path | None = path.with_name(PREVIOUS)
    if path.exists() and (damage := find_damage(path)):
        log.warning("warning: %s %s: it is replaced, and %s stays", path, damage, PREVIOUS)
        previous = None
    size = _num_bytes(checkpoint)
    with atomic.file(path, previous, size=size) as part:
        with part.open("wb") as file, Progress(size // MB, "saving", "MB", delay=1) as progress:
            with Hashing(file, progress) as hashing:
                torch.save(checkpoint, cast(IO[bytes], hashing))
            file.write(LABEL + hashing.digest.hexdigest().encode() + b"\n")
        # The kernel's clock ticks every few ms; whoever changes the file sets another time.
        os.utime(part, ns=(time.time_ns(), time.time_ns()))
    _whole[path.resolve()] = _signature(path)


def find_damage(path: Path) -> str | None:
    """Return what is wrong with a checkpoint, as the end of a sentence; None: it is whole.

    A file that this process has written or checked is only looked at.

    Raises:
        OSError: it may not be read.
    """
    if not path.is_file():
        return "is no file"
    before = _signature(path)
    if _whole.get(path.resolve()) == before:
        return None
    try:
        damage = _find_damage(path)
    except OSError as error:
        if error.errno not in BROKEN:
            raise
        return f"cannot be read ({error.strerror})"
    if damage is None and time.time() - path.stat().st_mtime > SECONDS:
        _whole[path.resolve()] = before
    return damage


def _find_damage(path: Path) -> str | None:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        left = os.fstat(file.fileno()).st_size - TRAILER
        piece = bytearray(PIECE)
        view = memoryview(piece)
        while left > 0 and (number := file.readinto(view[: min(left, PIECE)])):
            digest.update(view[:number])
            left -= number
        trailer = file.read(TRAILER + 1)
    if trailer == LABEL + digest.hexdigest().encode() + b"\n":
        return None
    if LABEL in trailer or not is_consistent(path) or not _opens(path):
        return "is damaged, or no checkpoint: its checksum is wrong"
    log.warning(
        "warning: %s has no checksum, as an earlier version wrote it: that its numbers are what "
        "they were is not known",
        path,
    )
    return None


def _opens(path: Path) -> bool:
    """Whether torch finds its way through an archive."""
    try:
        torch.load(path, mmap=True, weights_only=True)
    except (RuntimeError, ValueError, EOFError, OSError):
        return False
    except pickle.UnpicklingError:  # what it holds is for the reader to judge
        return True
    return True


def read(path: Path, load: Callable[[Path], Any]) -> Any:
    """Return what ``load`` makes of a checkpoint that is whole.

    Raises:
        UserError: it is damaged, or this version cannot read it.
    """
    if damage := find_damage(path):
        raise UserError(f"checkpoint={path} {damage}")
    try:
        return load(path)
    except (RuntimeError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(
            f"checkpoint={path} is no checkpoint of a training run: {first_line(error)}"
        ) from error


def check_fit(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Check that a checkpoint holds the ``expected`` weights: a whole one may be another run's.

    Raises:
        UserError: it does not; names one that it should not hold, or should.
    """
    kinds = [{(name, tensor.shape) for name, tensor in each.items()} for each in (found, expected)]
    if wrong := sorted(kinds[0] ^ kinds[1]):
        raise UserError(
            f"resume: the checkpoint is another model's, for example "
            f"{wrong[0][0].removeprefix('model.')}: put the run's own in its place, rename "
            f"{PREVIOUS}, the one before it, to last.ckpt, or start a new run"
        )


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's way to the file: old or new, never half of one, and checked when it is read."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write ``checkpoint``; the file that was there becomes ``previous.ckpt``."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with phases.phase("saving"):
            write(checkpoint, path)

    def load_checkpoint(
        self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Return a checkpoint; nothing but tensors and plain values is unpickled."""
        load = super().load_checkpoint
        return read(Path(path), lambda file: load(file, map_location, weights_only=True))


def _signature(path: Path) -> Signature:
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _num_bytes(value: Any) -> int:
    """Return about how many bytes the tensors in a checkpoint take."""
    if isinstance(value, Tensor):
        return value.nbytes
    if isinstance(value, Mapping):
        return sum(map(_num_bytes, value.values()))
    return sum(map(_num_bytes, value)) if isinstance(value, list | tuple) else 0
