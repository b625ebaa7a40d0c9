"""What a file is, and its rows."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePath

from src.data.files import foreign
from src.data.files.columnar import (
    columnar_kind,
    columnar_part,
    is_saved_dataset,
    saved_part,
)
from src.data.files.json_rows import json_parts
from src.data.files.json_text import BadJson, values_of
from src.data.files.part import Part
from src.data.files.places import NO_ROWS, ROWS_SUFFIXES, Place, split_of_name
from src.data.files.tables import is_table, table_parts
from src.data.files.text import Text, as_text
from src.data.files.unpacking import Stored, on_disk, unpack
from src.errors import UserError

JSON_SUFFIXES = {".json", ".jsonl", ".ndjson"}


def open_parts(place: Place, encoding: str | None = None) -> list[Part]:
    """Return the parts of one file or ``save_to_disk`` folder; their rows are read later.

    Args:
        place: the file and the split that its name says.
        encoding: of text without a mark; None: UTF-8.

    Raises:
        UserError: it cannot be read, or is something else than rows: names it.
    """
    if is_saved_dataset(place.path):
        return [saved_part(place.path, place.split)]
    try:
        contents = list(unpack(on_disk(place.path)))
    except OSError as error:
        raise UserError(f"{place.path}: cannot be read: {error.strerror or error}") from error
    if len(contents) == 1:
        return _with_split(_parts(*contents[0], encoding), place.split)
    parts = []
    for stored, head, inside in _members_of_rows(contents, place.path):
        split = split_of_name(str(inside)) or place.split
        parts += _with_split(_parts(stored, head, encoding), split)
    if not parts:
        raise UserError(f"{place.path}: no file of rows in this archive")
    return parts


def _members_of_rows(
    contents: list[tuple[Stored, bytes]], archive: Path
) -> list[tuple[Stored, bytes, PurePath]]:
    """Return the members that are called as files of rows are; else all but those for readers."""
    members = [
        (stored, head, PurePath(stored.name.removeprefix(f"{archive}/")))
        for stored, head in contents
    ]
    members = [m for m in members if not any(part.startswith((".", "_")) for part in m[2].parts)]
    called = [
        m for m in members if m[2].suffix.lower() in ROWS_SUFFIXES and m[2].name not in NO_ROWS
    ]
    return called or [m for m in members if m[2].suffix.lower() not in foreign.SUFFIXES]


def _with_split(parts: list[Part], split: str | None) -> list[Part]:
    return [replace(part, split=part.split or split) for part in parts]


def _parts(stored: Stored, head: bytes, encoding: str | None) -> list[Part]:
    if kind := columnar_kind(head):
        return [columnar_part(stored, kind)]
    text = as_text(stored, head, encoding)
    wide = text.encoding.replace("_", "-").lower().startswith(("utf-16", "utf-32"))
    if not wide and (what := foreign.binary(head)):
        raise foreign.refusal(stored.name, what)
    start = head.decode(text.encoding, errors="replace").lstrip("\ufeff \t\r\n")
    reader = _reader(stored.name, start, text)
    if reader is table_parts and (what := foreign.text(stored.name, start)):
        raise foreign.refusal(stored.name, what)
    return reader(text)


def _reader(name: str, start: str, text: Text) -> Callable[[Text], list[Part]]:
    """Return what reads a text that begins with ``start``."""
    if start.startswith(("{", "[")) or any(map(_is_object, start.splitlines()[1:10])):
        return json_parts
    named_json = any(suffix.lower() in JSON_SUFFIXES for suffix in PurePath(name).suffixes)
    if not named_json or foreign.text(name, start) or is_table(text):
        return table_parts
    return json_parts  # its errors name the lines


def _is_object(line: str) -> bool:
    try:
        return line.startswith("{") and all(isinstance(v, dict) for v in values_of(line))
    except BadJson:
        return False
