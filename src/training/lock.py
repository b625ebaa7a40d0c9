"""A run folder belongs to one process at a time: it holds a lock there for as long as it lives.

The kernel lets go of the lock when the process ends, however it ends. The file is removed when the
process ends well; one that is left behind locks nothing.
"""

import atexit
import contextlib
import os
from pathlib import Path

from filelock import FileLock, Timeout

from src import signals
from src.files import atomic
from src.training.record import RESULTS

LOCK = "run.lock"
SECONDS_OF_A_LOOK = 1.0  # far longer than ``is_held`` has it, even where it is kept waiting

_held: dict[Path, FileLock] = {}


def hold(folder: Path) -> bool:
    """Take the lock of a folder until ``release``; return False if another process has it.

    Raises:
        OSError: the folder cannot be written.
    """
    folder = folder.resolve()
    if folder in _held:
        return True
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=SECONDS_OF_A_LOOK, poll_interval=SECONDS_OF_A_LOOK / 100)
    except Timeout:
        return False
    _held[folder] = lock
    signals.at_end(_remove_files)
    atexit.register(release, folder)  # if the run does not come to its own end
    return True


def is_held(folder: Path) -> bool:
    """Whether a process has the lock of a folder; True as well where the system does not tell."""
    folder = folder.resolve()
    if folder in _held:
        return True
    if not (folder / LOCK).is_file():
        return False
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError):
        return True
    lock.release()
    return False


def release(folder: Path) -> None:
    """Let go of the lock of a folder, if this process has it."""
    folder = folder.resolve()
    lock = _held.pop(folder, None)
    if lock is None:
        return
    # Before it is let go of: whoever waits sees that the file is gone and makes a new one.
    if os.name != "nt":
        _remove(folder)
    lock.release()
    if os.name == "nt":
        _remove(folder)


def sweep(folder: Path) -> None:
    """Remove what processes that were killed left of their writing in a run folder."""
    for part in (folder, *(folder / name for name in ("checkpoints", *RESULTS))):
        atomic.sweep(part)


def clear(folder: Path) -> None:
    """Remove what a process left that was killed after the last figure of its run."""
    if os.access(folder, os.W_OK) and hold(folder):
        sweep(folder)
        release(folder)


def _remove(folder: Path) -> None:
    with contextlib.suppress(OSError):
        (folder / LOCK).unlink()


def _remove_files() -> None:
    for folder in list(_held):
        _remove(folder)
