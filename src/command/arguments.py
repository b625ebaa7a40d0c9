"""Python's values as a command line of settings: ``optimizer={"learning_rate": 1e-3}``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from src.errors import UserError
from src.wording.command_line import grammatical, quoted


def as_arguments(settings: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return ``key=value`` for each setting, those of nested objects under dotted keys.

    Raises:
        UserError: a value is of a kind that no setting has.
    """
    arguments: list[str] = []
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            arguments += as_arguments(value, f"{name}.")
        elif isinstance(value, str | Path):
            arguments.append(f"{name}={grammatical(value)}")
        else:
            arguments.append(f"{name}={_text(name, value)}")
    return arguments


def _text(key: str, value: Any) -> str:
    """Return a value in Hydra's grammar."""
    if hasattr(value, "item") and not getattr(value, "shape", ()):  # of numpy or torch
        value = value.item()
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str | Path):
        return quoted(value)
    if isinstance(value, Mapping):
        inner = (f"{grammatical(name)}: {_text(key, each)}" for name, each in value.items())
        return f"{{{', '.join(inner)}}}"
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return f"[{', '.join(_text(key, each) for each in value)}]"
    raise UserError(f"{key}: a setting is a text, a number, a list or an object, not {value!r:.60}")
