"""Whether the files of a folder still are what was written: their sizes and checksums.

They stand in ``checksums.json`` beside the files. A checksum is XXH3 of 128 bits: it reads 13 GiB a
second where SHA-256 reads 1, so each start can afford to read all files. It finds every accident;
it is no signature against a person who wants to deceive.
"""

import hashlib
import json
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import xxhash

from src.files import atomic

CHECKSUMS = "checksums.json"
MAX_SIZE = 1 << 20  # bytes of that file, at most


def write_checksums(folder: Path, names: Iterable[str], key: str) -> None:
    """Write the sizes and checksums of the files ``names`` of ``folder``, which ``key`` names."""
    files = {name: [(folder / name).stat().st_size, _checksum(folder / name)] for name in names}
    atomic.write_json(folder / CHECKSUMS, {"key": key, "files": files})


def find_damage(folder: Path, names: Iterable[str], key: str) -> str | None:
    """Return what is wrong with the first damaged file, or None if all of ``names`` are whole.

    What lies beside them is not looked at. A file that cannot be read is damaged.
    """
    try:
        expected = _read(folder, key)
    except OSError as error:
        return f"{CHECKSUMS} cannot be read ({error.strerror or error})"
    except (ValueError, TypeError, KeyError, RecursionError):
        return f"{CHECKSUMS} is damaged"
    for name in names:
        path = folder / name
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                return f"{name} is no file"
            if [status.st_size, _checksum(path)] != expected.get(name):
                return f"{name} is damaged: its checksum is wrong"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror or error})"
    return None


def _read(folder: Path, key: str) -> dict[str, Any]:
    """Return the sizes and checksums by the names of the files."""
    path = folder / CHECKSUMS
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_SIZE:
        raise ValueError("no file of checksums")
    values = json.loads(path.read_bytes())
    if values["key"] != key or not isinstance(values["files"], dict):
        raise ValueError("of another folder")
    return values["files"]


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()  # type: ignore[arg-type]
