"""Bytes of a file, unpacked as its first bytes ask, whatever its name says.

The standard library unpacks gzip, bz2, xz and zip, and pyarrow zstd and lz4. ``fsspec`` would call
the same ones, but chooses by the file's name.
"""

import bz2
import gzip
import lzma
import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from src.data.files import foreign
from src.errors import UserError

HEAD = 4096  # bytes that tell what a file is
DEEPEST = 4  # packings inside each other

# What the unpackers raise for a file that is cut or damaged.
DAMAGE = (EOFError, OSError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, NotImplementedError)


@dataclass(frozen=True)
class Stored:
    """Something that can be opened again and again: a file, or a member of an archive."""

    name: str
    open: Callable[[], IO[bytes]]
    path: Path | None = None  # where the very same bytes lie on the disk

    def head(self) -> bytes:
        """Return the first bytes; fewer if there are no more, or the file is damaged after them.

        Raises:
            UserError: the file is damaged at its start, or may not be read.
        """
        head = b""
        try:
            with self.open() as file:
                read = getattr(file, "read1", file.read)  # gives what there is before damage
                while len(head) < HEAD and (more := read(HEAD - len(head))):
                    head += more
                return head
        except DAMAGE as error:
            if head:
                return head
            raise UserError(f"{self.name}: cannot be read: {damage(error)}") from error

    def seekable(self) -> IO[bytes]:
        """Return the bytes as a file that can be read in any order."""
        if self.path is not None:
            return self.path.open("rb")
        copy = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
        with self.open() as file:
            shutil.copyfileobj(file, copy)
        copy.seek(0)
        return copy


def damage(error: BaseException) -> str:
    """Return what is wrong with a file that cannot be unpacked or read further."""
    if isinstance(error, OSError) and error.errno is not None:  # of the disk, not of the file
        return f"it cannot be read here ({error.strerror})"
    text = str(error) or type(error).__name__
    cut = isinstance(error, EOFError) or re.search(
        r"(?i)ended before|truncated|unexpected end", text
    )
    return f"the file is {'cut' if cut else 'damaged'} here ({text})"


def on_disk(path: Path) -> Stored:
    """Return a file of the disk."""
    return Stored(str(path), lambda: path.open("rb"), path)


def unpack(stored: Stored, depth: int = 0) -> Iterator[tuple[Stored, bytes]]:
    """Yield what is in ``stored`` and its first bytes: itself, unpacked, or an archive's members.

    Raises:
        UserError: it cannot be unpacked.
    """
    head = stored.head()
    if depth > DEEPEST:
        raise UserError(f"{stored.name}: packed more than {DEEPEST} times: unpack it first")
    if opener := next((f for magic, f in UNPACKERS if re.match(magic, head)), None):
        yield from unpack(Stored(stored.name, partial(opener, stored)), depth + 1)
    elif head.startswith(b"PK\x03\x04"):
        for member in _members(stored):
            yield from unpack(member, depth + 1)
    else:
        yield stored, head


def _gzip(stored: Stored) -> IO[bytes]:
    return gzip.open(stored.open(), "rb")  # type: ignore[return-value]  # it reads all the same


def _bz2(stored: Stored) -> IO[bytes]:
    return bz2.open(stored.open(), "rb")


def _xz(stored: Stored) -> IO[bytes]:
    return lzma.open(stored.open(), "rb")


def _pyarrow(codec: str, stored: Stored) -> IO[bytes]:
    import pyarrow

    return pyarrow.CompressedInputStream(stored.open(), codec)


# The first bytes of each, as a pattern; zstd may begin with a frame that is passed over.
UNPACKERS: list[tuple[bytes, Callable[[Stored], IO[bytes]]]] = [
    (rb"\x1f\x8b", _gzip),
    (rb"BZh[1-9](1AY&SY|\x17rE8P\x90)", _bz2),
    (rb"(?s)\xfd7zXZ\x00|\x5d\x00\x00.{2}(?:\xff{8}|.{4}\x00{4})", _xz),
    (rb"(?s)\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18", partial(_pyarrow, "zstd")),
    (rb"\x04\x22\x4d\x18", partial(_pyarrow, "lz4")),
]


def _members(stored: Stored) -> Iterator[Stored]:
    try:
        with stored.open() as file, zipfile.ZipFile(file) as archive:
            names = [info.filename for info in archive.infolist() if not info.is_dir()]
            locked = any(info.flag_bits & 1 for info in archive.infolist())
    except DAMAGE as error:
        raise UserError(f"{stored.name}: the zip file is cut or damaged: {error}") from error
    if what := foreign.in_zip(names):
        raise foreign.refusal(stored.name, what)
    if locked:
        raise UserError(f"{stored.name}: the zip file has a password: unpack it first")
    for name in sorted(names):
        yield Stored(f"{stored.name}/{name}", partial(_member, stored, name))


def _member(stored: Stored, name: str) -> IO[bytes]:
    return zipfile.ZipFile(stored.open()).open(name)
