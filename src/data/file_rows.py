"""Rows of the files that a config names, with the split that each part belongs to."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from src.data.config import DataConfig
from src.data.files.columnar import is_saved_dataset, saved_files
from src.data.files.part import SPLIT_NAMES, Part
from src.data.files.places import find_places
from src.data.files.reader import open_parts
from src.errors import UserError

CHUNK = 1 << 20  # bytes
LARGE = 1 << 30  # bytes


def file_parts(config: DataConfig) -> tuple[list[Part], str]:
    """Return the rows of the files of a source, each part with its split, and a hash of them.

    Raises:
        UserError: a file is missing, cannot be read or holds no rows.
    """
    if config.name:
        raise UserError(f"data.name={config.name}: only a hub data set has configurations")
    content = hashlib.sha256()
    parts: list[Part] = []

    def opened(names: str | Sequence[str], key: str) -> list[Part]:
        found = []
        try:
            places = find_places(names, key)
        except OSError as error:
            raise UserError(
                f"{error.filename or names}: cannot be read: {error.strerror}"
            ) from error
        for place in places:
            if place.path.stat().st_size > LARGE:  # refuse what holds no rows before it is read
                open_parts(place, config.encoding)
            content.update(_digest(place.path))
            found += open_parts(place, config.encoding)
        return found

    own = opened(config.path, "data.path")
    if config.train_split:
        parts = _of_split(own, config.train_split, "train", "data.train_split")
    else:
        parts = [replace(part, split=part.split or "train") for part in own]
    for split, name in (("validation", config.validation_split), ("test", config.test_split)):
        if name is None:
            continue
        key = f"data.{split}_split"
        inside = [part for part in own if _is_split(part, name)]
        if inside and not Path(name).expanduser().exists():
            added = _of_split(own, name, split, key)
        else:
            added = [replace(part, split=split) for part in opened(name, key)]
        names = {part.name for part in added}
        parts = [p for p in parts if p.split != split and p.name not in names] + added
        if not any(part.split == "train" for part in parts):
            raise UserError(f"{key}={name}: all rows of data.path go there; none are left to train")
    if not parts:
        raise UserError(f"data.path={config.path}: no rows")
    content.update(json.dumps([part.split for part in parts]).encode())
    return parts, content.hexdigest()


def _is_split(part: Part, name: str) -> bool:
    """Whether a part is the split that a person calls ``name``."""
    path = Path(part.name)
    named = name in (path.name, path.name.split(".")[0]) or part.name.endswith(f"[{name}]")
    return named or (part.split is not None and part.split == SPLIT_NAMES.get(name.lower()))


def _of_split(parts: Sequence[Part], name: str, split: str, key: str) -> list[Part]:
    found = [replace(part, split=split) for part in parts if _is_split(part, name)]
    if not found:
        there = ", ".join(f"{part.name} ({part.split or 'train'})" for part in parts)
        raise UserError(f"{key}={name}: there is no such split; there are {there}")
    return found


def _digest(path: Path) -> bytes:
    """Return a hash of a file, or of the files of a saved data set."""
    digest = hashlib.sha256()
    for name in saved_files(path) if is_saved_dataset(path) else [path]:
        try:
            digest.update(_file_digest(name))
        except OSError as error:
            raise UserError(f"{name}: cannot be read: {error.strerror or error}") from error
    return digest.digest()


def _file_digest(path: Path) -> bytes:
    """Return the SHA-256 of a file, as long as it is now: one that grows has no end."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        left = os.fstat(file.fileno()).st_size
        while left > 0 and (piece := file.read(min(CHUNK, left))):
            digest.update(piece)
            left -= len(piece)
    return digest.digest()
