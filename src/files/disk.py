"""What a system refuses to write or read, in one line: which file, why, and what room there is."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from src.errors import UserError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
BROKEN = (errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ENOTCONN)
# A person's machine refuses a file, and says why: no mistake of ours.
REFUSALS = {
    *(*NO_ROOM, *BROKEN, errno.EROFS, errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE),
    *(errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP, errno.EFBIG),
}
OF_THE_DISK = {*NO_ROOM, *BROKEN, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG}
LARGE = 10**6  # bytes, from which on it is asked beforehand whether there is room


class Unwritten(OSError):
    """A file or folder could not be written; what was there before is as it was.

    Attributes:
        size: how many bytes it would have had; None: unknown.
    """

    size: int | None = None


@contextmanager
def writing(path: Path, size: int | None = None) -> Iterator[None]:
    """Let what the disk refuses meanwhile be an ``Unwritten`` that names ``path``.

    Libraries raise errors of their own for a full disk; they are recognised. An error about a file
    in a folder that is not in its place yet is about the folder. Where a disk is known to have no
    room for ``size`` bytes, nothing is begun.

    Raises:
        Unwritten: the disk refused, or has no room.
    """
    try:
        if size is not None and size >= LARGE and not _has_room(path.parent, size):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        yield
    except UserError:
        raise
    except Exception as error:
        number = error_number(error)
        is_part = isinstance(error, Unwritten)  # a file of this folder
        if isinstance(error, Unwritten) and error.filename == str(path):
            raise
        if number not in OF_THE_DISK or not _is_about(error, path):
            raise
        unwritten = Unwritten(number, os.strerror(number), str(path))
        unwritten.size = None if is_part else size  # the folder's other files need room, too
        raise unwritten from error


def _has_room(folder: Path, size: int) -> bool:
    free = free_bytes(folder)
    return free is None or free >= size


def _is_about(error: Exception, path: Path) -> bool:
    """Whether an error is not about another file, such as one that is read meanwhile."""
    if not isinstance(error, OSError) or not error.filename:
        return True
    file = Path(os.fsdecode(error.filename2 or error.filename))  # the second: of a copy
    if file == path or file in path.parents:
        return True
    if not file.is_relative_to(path.parent):
        return False
    return file.relative_to(path.parent).parts[0].startswith(f".{path.name}.")


def error_number(error: BaseException) -> int | None:
    """Return the number of the system's error that ``error`` is, or that it was raised for.

    safetensors, tokenizers, torch and numpy tell it in words only.
    """
    text = str(error)
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    if match := re.search(r"\(os error (\d+)\)", text):
        return int(match[1])
    if os.strerror(errno.ENOSPC) in text or re.search(r"\d+ requested and \d+ written", text):
        return errno.ENOSPC
    if error.__cause__ is not None:
        return error_number(error.__cause__)
    # An error while another was dealt with is another's, unless the disk itself is the reason.
    context = None if error.__context__ is None else error_number(error.__context__)
    return context if context in (*NO_ROOM, *BROKEN, errno.EFBIG) else None


def free_bytes(folder: Path) -> int | None:
    """Return the free bytes where ``folder`` is or would be; None: the system does not say."""
    try:
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        if os.name == "posix":
            status = os.statvfs(folder)
            is_root = os.geteuid() == 0  # who may fill what is kept back from others
            blocks = status.f_bfree if is_root else status.f_bavail
            return blocks * status.f_frsize if status.f_blocks else None
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def reason(error: OSError) -> str:
    """Return why the system refused, and for a full disk how much was needed and is free."""
    number = error_number(error)
    text = error.strerror or (os.strerror(number) if number else " ".join(str(error).split()))
    if number not in NO_ROOM or not error.filename:
        return text
    size = getattr(error, "size", None)
    path = Path(os.fsdecode(error.filename)).absolute()
    free = free_bytes(path if path.is_dir() else path.parent)
    room = [
        *([] if size is None else [f"it needs {size_text(size)}"]),
        *([] if free is None else [f"{size_text(free)} free"]),
    ]
    return f"{text} ({', '.join(room)})" if room else text


def refusal(error: BaseException, folder: str | None = None) -> str | None:
    """Return in one line why the system refuses a file, and the notes; None for other errors.

    Args:
        error: what was raised.
        folder: what is named if the system does not say which file it refuses.
    """
    number = error_number(error)
    if number not in REFUSALS:
        return None
    causes = error, error.__cause__, error.__context__
    inner = next((cause for cause in causes if isinstance(cause, OSError)), None)
    if inner is None or not inner.filename:
        inner = OSError(number, os.strerror(number), folder)
    name = f"{os.fsdecode(inner.filename)}: " if inner.filename else ""
    return "; ".join([f"{name}{reason(inner)}", *getattr(error, "__notes__", ())])


def size_text(size: int) -> str:
    """Return a number of bytes as people read it, such as ``1.5 GB``."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} bytes"
