"""Short names for models: what differs between their folders and between their runs' overrides."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from src.page.record import BROKEN, read_record

PLACES = ("hydra.", "data.corpus_dir=", "resume=")  # overrides that say where, not what
START = re.compile(r"(\d{4}-\d\d-\d\d)_(\d\d)-(\d\d)-(\d\d)_[0-9a-f]{6}")  # a run folder's name
MOST_OVERRIDES = 3  # in a label


def model_labels(names: Sequence[str]) -> dict[str, str]:
    """Return a label for each model folder or hub name, in their order; no two are equal."""
    paths = {name: _parts(name) for name in names}
    tails = {name: _difference(name, paths) for name in names}
    for form in (r"\1 \2:\3", r"\1 \2:\3:\4"):
        times = {name: START.sub(form, tail) for name, tail in tails.items()}
        if len(set(times.values())) == len(tails):
            tails = times
            break
    overrides = {name: _overrides(name) for name in names}
    labels = {}
    for name, tail in tails.items():
        changes = _changes(name, overrides)
        new = [change for change in changes if change not in tail]
        if len(new) > MOST_OVERRIDES:
            new = [*new[:MOST_OVERRIDES], "…"]
        labels[name] = f"{' '.join(new)} ({tail})" if new else tail
    return labels


def first_names(names: Sequence[str]) -> dict[str, str]:
    """Return for each name the first one of ``names`` that means the same folder."""
    folders: dict[Path, str] = {}
    return {name: folders.setdefault(Path(name).expanduser().resolve(), name) for name in names}


def _parts(name: str) -> tuple[str, ...]:
    """Return the parts of a folder's path, the last first; a hub name is one part."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return (name,)
    parts = folder.resolve().parts[:0:-1] or (name,)
    return parts[1:] if parts[0] == "model" and len(parts) > 1 else parts


def _difference(name: str, paths: Mapping[str, tuple[str, ...]]) -> str:
    """Return the end of a path that no other has, without the parts that its rivals share."""
    parts = paths[name]
    others = [path for other, path in paths.items() if other != name]
    size = 1
    while size < len(parts) and any(path[:size] == parts[:size] for path in others):
        size += 1
    rivals = [path for path in others if path[0] == parts[0]]
    kept = [
        part
        for index, part in enumerate(parts[:size])
        if not rivals or any(path[index : index + 1] != (part,) for path in rivals)
    ]
    return "/".join(reversed(kept)) or name


def _overrides(name: str) -> dict[str, str]:
    """Return what a run was started with; nothing where that is not known."""
    try:
        overrides = read_record(name).get("overrides", [])
        texts = [text for text in overrides if not text.startswith(PLACES)]
    except BROKEN:
        return {}  # a label can do without
    return {text.partition("=")[0]: text for text in texts}


def _changes(name: str, overrides: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return the overrides of a run that another run lacks, by the last word of their keys."""
    runs = [run for run in overrides.values() if run]
    return [
        _short(text)
        for key, text in overrides[name].items()
        if any(run.get(key) != text for run in runs)
    ]


def _short(override: str) -> str:
    key, _, value = override.partition("=")
    return f"{key.rsplit('.', 1)[-1]}={value}"
