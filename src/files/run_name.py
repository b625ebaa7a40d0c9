"""What a run folder is called: when the run began, what a person calls it, and six digits."""

import secrets
from datetime import datetime

from src.errors import UserError

# Separators here or on Windows, what its folders cannot hold, and what separates settings.
NOT_IN_A_NAME = '/\\:*?"<>|=,'
MAX_BYTES = 100  # a file system allows 255, and more stands around it


def run_name(name: str | None = None) -> str:
    """Return a name for a run folder: its start, ``name``, and six digits for the same second.

    Raises:
        UserError: no folder's name can hold ``name``.
    """
    check_name(name)
    middle = "" if name is None else f"{name}_"
    return f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{middle}{secrets.token_hex(3)}"


def check_name(name: str | None) -> None:
    """Check what a person calls a run; None: it has no name.

    Raises:
        UserError: no folder's name can hold it; says why.
    """
    if name is None:
        return
    problem = _problem(name)
    if problem:
        shown = name if name.isprintable() else ascii(name)[1:-1]
        raise UserError(
            f"name={shown[:MAX_BYTES]}: {problem}; it becomes a part of the run folder's name"
        )


def _problem(name: str) -> str | None:
    if not name.strip():
        return "there is nothing in it: leave it out, or give the run a name"
    if not name.isprintable():  # half characters, too
        return "it holds a character that cannot be printed"
    found = [sign for sign in NOT_IN_A_NAME if sign in name]
    if found:
        return f"it holds {' '.join(found)}, and may hold none of {' '.join(NOT_IN_A_NAME)}"
    if "${" in name:  # Hydra would look for a value
        return "it holds ${"
    if name != name.strip():
        return "it begins or ends with a blank"
    if set(name) == {"."}:
        return "it is nothing but dots"
    size = len(name.encode())
    return f"it has {size} bytes, and {MAX_BYTES} at most" if size > MAX_BYTES else None
