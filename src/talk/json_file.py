"""Small JSON files of a model folder."""

import json
from pathlib import Path
from typing import Any

from src.errors import UserError


def read_settings(path: Path) -> dict[str, Any]:
    """Return the keys and values of a file; none if it does not exist.

    Raises:
        UserError: it is no JSON object.
    """
    if not path.exists():
        return {}
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path} is broken: {error}") from error
    if not isinstance(settings, dict):
        raise UserError(f"{path} is broken: no object of keys and values")
    return settings
