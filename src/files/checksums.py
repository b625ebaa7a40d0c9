"""The checksums of a folder that we wrote, in ``SHA256SUMS``: ``sha256sum -c`` reads it, too.

A flipped bit in a setting gives other answers without a word. A person may also change one on
purpose, so a file that differs is named in a warning, and used.
"""

import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from src.errors import UserError
from src.files import atomic
from src.files.model_files import check_file, read_file

SUMS = "SHA256SUMS"
MAX_SUMS = 2**20  # bytes
HEADER = "# sha256sum -c SHA256SUMS checks these {} files\n"

log = logging.getLogger(__name__)
_said: set[str] = set()  # a folder is opened by several readers; each warning is for a person


def write_sums(folder: Path, names: Iterable[str]) -> None:
    """Write the checksums of the files of these names."""
    lines = [f"{_digest(folder / name)}  {name}\n" for name in sorted(names)]
    atomic.write_text(folder / SUMS, HEADER.format(len(lines)) + "".join(lines))


def read_sums(folder: Path) -> dict[str, str]:
    """Return the checksums of a folder by the names of the files; none: we did not write it.

    Logs a warning if the list itself is damaged.
    """
    path = folder / SUMS
    if not os.path.lexists(path):
        return {}
    try:
        text = read_file(path, MAX_SUMS).decode()
    except UnicodeDecodeError:
        text = ""
    sums = dict(
        reversed(found) for found in re.findall(r"^([0-9a-f]{64})  ([^/\n]+)\n", text, re.M)
    )
    if text != HEADER.format(len(sums)) + "".join(f"{s}  {name}\n" for name, s in sums.items()):
        _say(f"warning: {path} is damaged: not all files of this folder can be checked")
    return sums


def changes(folder: Path, chosen: Callable[[str], bool]) -> list[str]:
    """Return the names of the chosen files that are missing, or not as they were written."""
    sums = {name: sha for name, sha in read_sums(folder).items() if chosen(name)}
    return [n for n, s in sums.items() if not (folder / n).is_file() or _digest(folder / n) != s]


def warn_of_changes(folder: Path, chosen: Callable[[str], bool]) -> None:
    """Log a warning for each file of a chosen name that is not as it was written."""
    for path in (folder / name for name in changes(folder, chosen)):
        if not os.path.lexists(path):
            _say(f"warning: {path} is missing: it was there when this folder was written")
        else:
            _say(
                f"warning: {path} is not as it was written: if nobody changed it on purpose, it is "
                f"damaged, and answers may be other ones; copy it again"
            )


def warn_of_metadata(path: Path, metadata: Mapping[str, str]) -> None:
    """Log a warning if weights lack the checksum that those of our folders hold."""
    is_ours = metadata.keys() == {"format", "sha256"} and metadata["format"] == "pt"
    if not is_ours and (sums := read_sums(path.parent)) and path.name not in sums:
        _say(
            f"warning: {path} holds no checksum, as weights do that were written here: if nobody "
            f"replaced it on purpose, it is damaged; copy it again"
        )


def _digest(path: Path) -> str:
    check_file(path)
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error


def _say(text: str) -> None:
    if text not in _said:
        _said.add(text)
        log.warning("%s", text)
