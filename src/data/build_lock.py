"""One process builds a folder of a cache, the others wait; what killed builds left is removed."""

import re
import shutil
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

# Locks, and unfinished folders as src.files.atomic names them; nothing else is ever removed.
LEFTOVER = re.compile(r"([0-9a-f]{16})\.lock|\.([0-9a-f]{16})\.\d+\.(?:tmp|old)")


@contextmanager
def build_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of ``folder``, which a hash of 16 digits names; wait until it is free.

    The file of the lock is removed while it is still held. Whoever waits for it then finds that it
    has lost its name, and locks a new one: filelock looks.
    """
    path = folder.with_name(f"{folder.name}.lock")
    with FileLock(path):
        try:
            _sweep(folder)
            yield
        finally:
            with suppress(OSError):  # Windows keeps the name of an open file
                path.unlink()


def _sweep(folder: Path) -> None:
    """Remove what killed builds left beside ``folder``, whose lock is held: its own and others'."""
    leftovers = defaultdict(list)
    for path in folder.parent.iterdir():
        if match := LEFTOVER.fullmatch(path.name):
            leftovers[match[1] or match[2]].append(path)
    for path in leftovers.pop(folder.name, []):
        shutil.rmtree(path, ignore_errors=True)  # not the lock, which is no folder
    for key, paths in leftovers.items():
        lock = folder.with_name(f"{key}.lock")
        with suppress(Timeout, OSError), FileLock(lock, blocking=False):  # or it is being built
            for path in paths:
                shutil.rmtree(path, ignore_errors=True)
            lock.unlink()
