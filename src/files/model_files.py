"""Files of model folders that anybody may have made: plain, inside their folder, not too large."""

import fnmatch
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from src.errors import UserError

MIB = 2**20
MAX_TEXT = 32 * MIB  # of settings and vocabularies; Gemma's tokenizer.json, the largest known, fits
UNBOUNDED = ("*.safetensors", "*.bin")  # weights, which are compared with the config before use
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "encoder.json", "*.model")
HUB_CACHE = "models--"  # what the folder of a repository in the hub's cache is called
KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def has_vocabulary(folder: Path) -> bool:
    """Whether a folder holds a file that is the vocabulary of a tokenizer."""
    return any(True for pattern in VOCABULARIES for _ in folder.glob(pattern))


def check_files(folder: Path, patterns: Sequence[str]) -> None:
    """Check all files of a folder that match one of ``patterns``, before any is opened.

    A folder whose name happens to match a pattern of several files is passed over.

    Raises:
        UserError: see ``check_file``.
    """
    names = sorted(os.listdir(folder))
    for name in names:
        if name not in patterns and (folder / name).is_dir():
            continue
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            is_bounded = not any(fnmatch.fnmatchcase(name, pattern) for pattern in UNBOUNDED)
            check_file(folder / name, MAX_TEXT if is_bounded else None)


def check_file(path: Path, most: int | None = None) -> None:
    """Check a file before it is opened.

    Raises:
        UserError: it is no plain file but a FIFO, say, which may never end; it is a link that
            leaves its folder; or it has more than ``most`` bytes.
    """
    try:
        target = Path(os.path.realpath(path, strict=True))
        facts = target.stat()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    if not _is_inside(target, path.parent):
        raise UserError(
            f"{path} is a link to {target}, which is not in this folder: put the file itself there"
        )
    if not stat.S_ISREG(facts.st_mode):
        kind = KINDS.get(stat.S_IFMT(facts.st_mode), "something else")
        raise UserError(f"{path} is {kind}, not a file")
    if most is not None and facts.st_size > most:
        raise UserError(
            f"{path} has {facts.st_size / MIB:,.0f} MiB, and at most {most / MIB:,.0f} are read: "
            f"it is not what its name says"
        )


def read_file(path: Path, most: int = MAX_TEXT) -> bytes:
    """Return the content of a file.

    Raises:
        UserError: it cannot be read, or see ``check_file``.
    """
    check_file(path, most)
    return _read(path, most)


def read_beginning(path: Path, length: int) -> bytes:
    """Return the first bytes of a file of any size.

    Raises:
        UserError: it cannot be read, or see ``check_file``.
    """
    check_file(path)
    return _read(path, length)


def _read(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(most)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error


def check_subfolder(folder: Path, name: str) -> None:
    """Check a folder in a folder.

    Raises:
        UserError: it is a link that leaves the folder.
    """
    target = Path(os.path.realpath(folder / name))
    if not target.is_relative_to(os.path.realpath(folder)):
        raise UserError(
            f"{folder / name} is a link to {target}, which is not in this folder: name that one"
        )


def _is_inside(target: Path, folder: Path) -> bool:
    """Whether a file is in a folder, or is what the hub's cache links to from there.

    There, ``models--<name>/snapshots/<commit>`` holds links to ``models--<name>/blobs``.
    """
    place = Path(os.path.realpath(folder))
    repository = place.parent.parent
    is_cached = place.parent.name == "snapshots" and repository.name.startswith(HUB_CACHE)
    return target.parent == place or (is_cached and target.parent == repository / "blobs")
