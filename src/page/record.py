"""The record of a model's run: how it was started, and its settings."""

import json
from pathlib import Path
from typing import Any

RUN_RECORD = "run.json"  # beside a run's model folder

# What a foreign record can raise: when it is read, and when its values are of other kinds.
BROKEN = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError)


def read_record(model_path: str) -> dict[str, Any]:
    """Return the record of a model folder's run; empty where there is none.

    Raises:
        BROKEN: it cannot be read, or it is no object.
    """
    path = record_path(model_path)
    if not path.exists():
        return {}
    record = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(record, dict) or not record:
        raise TypeError("no object of keys and values")
    return record


def record_path(model_path: str) -> Path:
    """Return where the record of a model folder's run would be."""
    return Path(model_path).expanduser().parent / RUN_RECORD
