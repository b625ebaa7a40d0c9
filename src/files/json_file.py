"""Small JSON files of other people's folders: an object of keys and values, or one clear line."""

import json
import math
import os
from pathlib import Path
from typing import Any

from src.errors import UserError
from src.files.model_files import read_beginning, read_file

LFS = b"version https://git-lfs.github.com/spec/"  # what git has where a large file is left out
# Python's objects take up to 30 times a text's bytes, so their number is bounded as well.
MAX_VALUES = 3_000_000
MAX_CONTAINERS = 1_000_000


def read_settings(path: Path) -> dict[str, Any]:
    """Return the keys and values of a file; none if it does not exist.

    A byte order mark is skipped.

    Raises:
        UserError: it is no JSON object, or none of a bearable size.
    """
    if not os.path.lexists(path):
        return {}
    refuse_pointer(path)
    return settings_of(read_file(path), path)


def settings_of(content: bytes, path: Path) -> dict[str, Any]:
    """Return the keys and values of a JSON text, ``path`` being its place for messages.

    Raises:
        UserError: it is no JSON object, or none of a bearable size.
    """
    containers = content.count(b"{") + content.count(b"[")
    if containers > MAX_CONTAINERS or content.count(b",") > MAX_VALUES:
        raise UserError(
            f"{path} holds more than {MAX_VALUES:,} values or {MAX_CONTAINERS:,} lists: it is not "
            f"what its name says"
        )
    try:
        settings = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:  # of JSON, of UTF-8, or digits without an end
        raise UserError(f"{path} is broken: {error}") from error
    if not isinstance(settings, dict):
        raise UserError(f"{path} is broken: no object of keys and values")
    return settings


def refuse_pointer(path: Path) -> None:
    """Raise UserError if git left a large file out and wrote a pointer to it."""
    if read_beginning(path, len(LFS)) == LFS:
        raise UserError(
            f"{path} is a git-lfs pointer, not the file itself: run `git lfs pull` in "
            f"{path.parent}, or download the file"
        )


def is_number(value: object) -> bool:
    """Whether ``value`` is a finite number: no bool, and no text."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, int) or math.isfinite(value)
