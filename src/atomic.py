"""Files and folders that appear whole: whoever reads finds the old one or the new one, never half.

What is written has a temporary name beside its target, ``.<name>.<process id>.tmp``, is flushed to
the disk and then renamed. A process that is killed leaves the temporary name behind; the next one
that writes the same target removes it. Text is UTF-8, and a file's mode follows the umask.
"""

import errno
import glob
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_writing: set[Path] = set()  # the temporary names of this process


def write_text(path: Path, text: str) -> None:
    """Write a file of text."""
    write_bytes(path, text.encode())


def write_json(path: Path, values: Any) -> None:
    """Write a file of JSON, indented."""
    write_text(path, json.dumps(values, indent=2) + "\n")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file."""
    with file(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def file(path: Path, previous: Path | None = None) -> Iterator[Path]:
    """Yield the name of an empty file to write; in the end it becomes ``path``.

    If anything is raised meanwhile, ``path`` is as it was. An older ``path`` is renamed to
    ``previous``, if that is given.
    """
    with _temporary_name(path) as temporary:
        temporary.touch(exist_ok=False)
        mode = stat.S_IMODE(temporary.stat().st_mode)
        yield temporary
        temporary.chmod(mode)  # safetensors makes its files 0600
        _flush_file(temporary)
        if previous is not None and path.exists():
            os.replace(path, previous)
        os.replace(temporary, path)
    _flush_folder(path.parent)


@contextmanager
def folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder to write files into; in the end it becomes ``path``.

    If anything is raised meanwhile, ``path`` is as it was. An older folder is moved aside first:
    for a moment none is there, and if the process is killed in that moment, the next one that
    writes ``path`` puts the older one back.
    """
    with _temporary_name(path) as building:
        building.mkdir(parents=True)
        yield building
        for content in building.rglob("*"):
            if content.is_dir():
                _flush_folder(content)
            else:
                _flush_file(content)
        _flush_folder(building)
        _put_in_place(building, path)
    _flush_folder(path.parent)


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
    os.rename(path, old)
    try:
        os.rename(building, path)
    except BaseException:
        os.rename(old, path)
        raise
    _remove(old)


@contextmanager
def _temporary_name(path: Path) -> Iterator[Path]:
    """Yield a name beside ``path`` that nothing has; in the end nothing has it again."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    place = temporary.resolve()
    if place in _writing:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(temporary))
    _writing.add(place)
    try:
        _remove_leftovers(path)
        yield temporary
    finally:
        _remove(temporary)
        _writing.discard(place)


def _remove_leftovers(path: Path) -> None:
    """Remove what processes that have ended left beside ``path``.

    Another process may have had the id of this one: in a container the first id is always 1.
    """
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*"):
        match = re.fullmatch(r"\.(\d+)\.(tmp|old)", leftover.name[len(path.name) + 1 :])
        if match is None or (int(match[1]) != os.getpid() and _is_alive(int(match[1]))):
            continue
        if match[2] == "old" and not os.path.lexists(path):
            os.rename(leftover, path)
        else:
            _remove(leftover)


def _is_alive(process: int) -> bool:
    import psutil  # only here: a chat starts sooner without it

    return psutil.pid_exists(process)


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
