"""Small JSON files of other people's folders: an object of keys and values, or one clear line."""

import json
import math
from pathlib import Path
from typing import Any

from src.errors import UserError

LFS = b"version https://git-lfs.github.com/spec/"  # what git has where a large file is left out


def read_settings(path: Path) -> dict[str, Any]:
    """Return the keys and values of a file; none if it does not exist.

    A byte order mark is skipped.

    Raises:
        UserError: it is no JSON object.
    """
    if not path.exists():
        return {}
    try:
        refuse_pointer(path)
        settings = json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:  # of JSON, of UTF-8, or digits without an end
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is broken: {error}") from error
    if not isinstance(settings, dict):
        raise UserError(f"{path} is broken: no object of keys and values")
    return settings


def refuse_pointer(path: Path) -> None:
    """Raise UserError if git left a large file out and wrote a pointer to it."""
    with path.open("rb") as file:
        if file.read(len(LFS)) == LFS:
            raise UserError(
                f"{path} is a git-lfs pointer, not the file itself: run `git lfs pull` in "
                f"{path.parent}, or download the file"
            )


def is_number(value: object) -> bool:
    """Whether ``value`` is a finite number: no bool, and no text."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, int) or math.isfinite(value)
