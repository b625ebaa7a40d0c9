"""Files and folders that appear whole: whoever reads finds the old one or the new one, never half.

What is written has a temporary name beside its target, ``.<name>.<process id>.tmp``, is flushed to
the disk and then renamed. A process that is killed leaves the temporary name behind; the next one
that writes anything in that folder removes it. Text is UTF-8, and a file's mode follows the umask.

Who writes holds a lock on what it writes (flock), which ends with its process: a process id says
little in a container, where the first is always 1, or on a disk that several machines share.
"""

import errno
import json
import os
import re
import shutil
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from src.files import disk

try:
    import fcntl
except ImportError:  # Windows removes no file that is open
    fcntl = None  # type: ignore[assignment]

PART = re.compile(r"\.(?P<name>.+)\.(?P<process>\d+)\.(?P<kind>tmp|old)", re.S)
DAY = 86400.0  # seconds after which a part is left, where the disk has no locks
MINUTE = 60.0  # by which the clocks of a disk and of this machine may differ

_writing: set[Path] = set()  # the temporary names of this process, in all its threads


def write_text(path: Path, text: str, *, sweeps: bool = True) -> None:
    """Write a file of text; ``sweeps`` as in ``file``."""
    write_bytes(path, text.encode(), sweeps=sweeps)


def write_json(path: Path, values: Any) -> None:
    """Write a file of JSON, indented."""
    write_text(path, as_json(values))


def as_json(values: Any) -> str:
    """Return the text of a file of JSON."""
    return json.dumps(values, indent=2) + "\n"


def write_bytes(path: Path, content: bytes, *, sweeps: bool = True) -> None:
    """Write a file; ``sweeps`` as in ``file``."""
    with file(path, size=len(content), sweeps=sweeps) as temporary:
        temporary.write_bytes(content)


@contextmanager
def file(
    path: Path, previous: Path | None = None, *, size: int | None = None, sweeps: bool = True
) -> Iterator[Path]:
    """Yield the name of an empty file to write; in the end it becomes ``path``.

    If anything is raised meanwhile, ``path`` is as it was.

    Args:
        path: of the file.
        previous: what an older ``path`` is renamed to; None: it is replaced.
        size: how many bytes are about to be written, if that is known.
        sweeps: whether what killed processes left of other files in this folder is removed; no,
            where the folder is a person's and not ours.

    Raises:
        disk.Unwritten: the disk refuses.
    """
    with disk.writing(path, size), _temporary_name(path, sweeps) as temporary:
        temporary.touch(exist_ok=False)
        mode = stat.S_IMODE(temporary.stat().st_mode)
        with _lock(temporary):
            yield temporary
            temporary.chmod(mode)  # whatever library has made it
            _flush_file(temporary)
            if previous is not None and path.exists():
                os.replace(path, previous)
            os.replace(temporary, path)
        _flush_folder(path.parent)


@contextmanager
def folder(path: Path, *, size: int | None = None, sweeps: bool = True) -> Iterator[Path]:
    """Yield an empty folder to write files into; in the end it becomes ``path``.

    If anything is raised meanwhile, ``path`` is as it was. An older folder is moved aside first:
    for a moment none is there, and if the process is killed in that moment, the next one that
    writes beside ``path`` puts the older one back. ``size`` and ``sweeps`` as in ``file``.

    Raises:
        disk.Unwritten: the disk refuses.
    """
    with disk.writing(path, size), _temporary_name(path, sweeps) as building:
        building.mkdir(parents=True)
        with _lock(building):
            yield building
            for content in building.rglob("*"):
                if content.is_dir():
                    _flush_folder(content)
                else:
                    _flush_file(content)
            _flush_folder(building)
            _put_in_place(building, path)
        _flush_folder(path.parent)


def flush(files: Iterable[Path]) -> None:
    """Flush files that are written elsewhere, and their names, to the disk."""
    for path in files:
        with disk.writing(path):
            _flush_file(path)
            _flush_folder(path.parent)


def sweep(folder: Path, name: str | None = None) -> None:
    """Remove what processes that have ended left in a folder, of one target or of all.

    A folder that was moved aside comes back, if nothing has taken its place.
    """
    for leftover in folder.glob(".*"):
        match = PART.fullmatch(leftover.name)
        if match is None or name not in (None, match["name"]):
            continue
        if not _is_left(leftover, int(match["process"])):
            continue
        target = leftover.with_name(match["name"])
        if match["kind"] == "old" and not os.path.lexists(target):
            os.rename(leftover, target)
        else:
            _remove(leftover)


def discard() -> None:
    """Remove what this process is writing, before a signal ends it."""
    for temporary in list(_writing):
        _remove(temporary)
        old = temporary.with_suffix(".old")
        path = old.with_name(old.name[1:].rsplit(".", 2)[0])
        if old.exists() and not path.exists():
            os.rename(old, path)
        _remove(old)


def _put_in_place(building: Path, path: Path) -> None:
    if not path.is_dir():
        os.rename(building, path)
        return
    old = building.with_suffix(".old")
    place = old.resolve()
    _writing.add(place)
    try:
        os.rename(path, old)
        try:
            os.rename(building, path)
        except BaseException:
            os.rename(old, path)
            raise
        _remove(old)
    finally:
        _writing.discard(place)


@contextmanager
def _temporary_name(path: Path, sweeps: bool) -> Iterator[Path]:
    """Yield a name beside ``path`` that nothing has; in the end nothing has it again."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    place = temporary.resolve()
    if place in _writing:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(temporary))
    sweep(path.parent, None if sweeps else path.name)
    _writing.add(place)
    try:
        yield temporary
    finally:
        _remove(temporary)
        _writing.discard(place)


@contextmanager
def _lock(part: Path) -> Iterator[None]:
    """Show other processes that this one writes ``part``, where the disk has locks."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(part, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _is_left(part: Path, process: int) -> bool:
    """Whether nobody writes ``part`` any more."""
    if part.resolve() in _writing:
        return False
    try:
        modified = part.stat().st_mtime
        if process != os.getpid() and _is_alive(process, modified):
            return False
        if fcntl is None:
            return True
        descriptor = os.open(part, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:  # it is gone, or another person's
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:  # another container or machine
        return False
    except OSError:  # no locks here: it may be another machine's
        return time.time() - modified > DAY
    finally:
        os.close(descriptor)
    return True


def _is_alive(process: int, modified: float) -> bool:
    """Whether a process exists that may have written what was last modified then.

    A process that is younger has only got the number of the one that did.
    """
    import psutil  # only here: a chat starts sooner without it

    try:
        found = psutil.Process(process)
        if found.status() == psutil.STATUS_ZOMBIE:
            return False
        return found.create_time() <= modified + MINUTE
    except (psutil.NoSuchProcess, OverflowError):
        return False
    except psutil.Error:
        return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with suppress(OSError):  # it is gone, or another person's: no reason not to write
        path.unlink()


def _flush_file(path: Path) -> None:
    with path.open("rb+") as written:  # Windows flushes only what is open for writing
        os.fsync(written.fileno())


def _flush_folder(path: Path) -> None:
    """Flush the names in a folder, where the system can: not Windows, and not every network."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF):
            raise
    finally:
        os.close(descriptor)
