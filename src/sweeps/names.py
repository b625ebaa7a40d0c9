"""Short names for the runs of a sweep: folder names that every file system takes.

    optimizer.learning_rate=0.005 batch_size=8   ->  lr5e-3_bs8
    seed=2                                       ->  seed2
    data=sample                                  ->  data-sample

A name holds small letters, digits and ``. - _ +`` only: no ``=`` and no ``,``, which Hydra's
grammar and shells read.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

MOST_CHARACTERS = 80
SHORT = {
    "learning_rate": "lr",
    "batch_size": "bs",
    "micro_batch_size": "mbs",
    "block_size": "block",
    "weight_decay": "wd",
    "warmup_steps": "warmup",
    "max_steps": "steps",
    "max_epochs": "epochs",
    "max_grad_norm": "clip",
}


def short_keys(keys: Sequence[str]) -> dict[str, str]:
    """Return a short name for each dotted key, no two alike: its last part, or more of it."""
    names: dict[str, str] = {}
    for key in keys:
        parts = re.split(r"[./]", key)
        names[key] = SHORT.get(parts[-1], parts[-1])
    ends = list(names.values())
    for key, name in list(names.items()):
        if ends.count(name) > 1:
            names[key] = ".".join(re.split(r"[./]", key)[-2:])
    if len(set(names.values())) < len(names):
        return {key: key for key in keys}
    return names


def folder_names(values: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a folder's name for each run of ``values``, which all have the same keys.

    No two are alike, not even to a file system to which large and small letters are the same.
    """
    shorts = short_keys(list(values[0])) if values else {}
    spell = {key: spelling(run.get(key) for run in values) for key in shorts}
    names: list[str] = []
    taken: set[str] = set()
    for run in values:
        texts = {key: spell[key](value) for key, value in run.items()}
        name = run_folder_name({shorts[key]: text for key, text in texts.items()})
        number, unique = 1, name
        while unique in taken:
            number += 1
            unique = f"{name[: MOST_CHARACTERS - 1 - len(str(number))]}_{number}"
        taken.add(unique)
        names.append(unique)
    return names


def run_folder_name(values: Mapping[str, Any], number: int | None = None) -> str:
    """Return the name of one run by its values under short keys, and its ``number`` if any."""
    parts = [_part(key, value) for key, value in values.items()]
    name = "_".join([*([] if number is None else [str(number)]), *parts]) or "run"
    name = name[:MOST_CHARACTERS].strip(".-_")
    return f"run_{name}" if not name[:1].isalnum() else name


def _part(key: str, value: Any) -> str:
    text = value_text(value)
    is_number = re.fullmatch(r"[\d.]+(e-?\d+)?", text) is not None
    safe = re.sub(r"[^a-z0-9.+-]+", "-", text.lower()).strip(".-")
    safe_key = re.sub(r"[^a-z0-9_]+", "-", key.lower()).strip("-")
    if is_number and not safe_key[-1:].isdigit():
        return f"{safe_key}{safe}"
    return f"{safe_key}-{safe}"


def value_text(value: Any) -> str:
    """Return a value as short as it can be written: 5e-3, 0.1, 1024, true, null."""
    if isinstance(value, bool) or value is None:
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float) and math.isfinite(value):
        return _shortest(value)
    if isinstance(value, list | tuple):
        return "-".join(value_text(item) for item in value)
    return str(value)


def spelling(values: Iterable[Any]) -> Callable[[Any], str]:
    """Return what writes values that stand in one column: 5e-4 and 2.5e-3, or 0.1 and 0.25."""
    if any(_is_number(value) and "e" in value_text(value) for value in values):
        return lambda value: (
            _scientific(value) if _is_number(value) and value else value_text(value)
        )
    return value_text


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value)


def rounded(value: Any) -> Any:
    """Return a value that a search proposed, with all its digits, as people want to read it."""
    return float(f"{value:.3g}") if isinstance(value, float) else value


def _shortest(value: float) -> str:
    plain = repr(value)
    if "e" not in plain:
        plain = plain.removesuffix(".0")
    scientific = _scientific(value)
    return scientific if len(scientific) < len(plain) else plain


def _scientific(value: float) -> str:
    digits, _, exponent = f"{value:.16e}".partition("e")
    for places in range(17):  # the fewest that mean the same number
        digits = f"{value:.{places}e}".partition("e")[0]
        if float(f"{digits}e{exponent}") == value:
            break
    return f"{digits}e{int(exponent)}"
