"""Where the rows lie in one JSON value that is a whole file."""

from collections.abc import Mapping, Sequence
from typing import Any

from src.data.files.foreign import JSON_LINES
from src.data.files.part import SPLIT_NAMES
from src.errors import UserError

# Keys that hold the rows of a file, those that people use most first.
ROWS_KEYS = (
    *("data", "rows", "train", "instances", "examples", "items", "records", "samples", "entries"),
    *("dataset", "results", "documents", "dialogs", "dialogues", "conversations", "chats"),
)
# Keys that hold the messages of one row.
MESSAGES_KEYS = (
    *("messages", "conversations", "conversation", "dialog", "dialogue", "turns", "chat"),
    *("history", "exchanges"),
)
ROLE_KEYS = ("role", "from", "speaker", "author", "sender")
TEXT_KEYS = ("content", "value", "text", "message", "parts")

Rows = list[Any]


def is_message(value: Any) -> bool:
    """Whether ``value`` is one message of a conversation, not a row."""
    if not isinstance(value, Mapping):
        return False
    keys = {str(key).lower() for key in value}
    return bool(keys & {*ROLE_KEYS} and keys & {*TEXT_KEYS, "tool_calls", "function_call"})


def as_row(value: Any) -> Any:
    """Return a bare list as a row, and the row in what the hub's viewer gives for one."""
    if isinstance(value, dict) and "row_idx" in value and isinstance(value.get("row"), dict):
        return value["row"]
    return {"messages": value} if isinstance(value, list) else value


def rows_of(value: dict[str, Any], name: str) -> list[tuple[str | None, str, Rows]]:
    """Return the rows in an object that is a whole file: (split, key, rows) of each list.

    Raises:
        UserError: it is laid out in a way that is not read, or several keys could hold the rows.
    """
    _refuse(value, name)
    splits: list[tuple[str | None, str, Rows]] = [
        (SPLIT_NAMES[key.lower()], key, rows)
        for key in value
        if key.lower() in SPLIT_NAMES and (rows := _rows(value[key])) is not None
    ]
    if splits:
        return splits
    lists = {key: rows for key in value if (rows := _row_list(key, value[key])) is not None}
    named = [key for key in ROWS_KEYS for found in lists if found.lower() == key]
    if named or len(lists) == 1:
        key = next(found for found in lists if not named or found.lower() == named[0])
        return [(None, key, lists[key])]
    if len(lists) > 1:
        raise UserError(
            f"{name}: several keys hold lists of objects ({', '.join(lists)}): write the list of "
            f"the rows into a file of its own"
        )
    inner = [key for key in value if isinstance(value[key], dict) and _holds_rows(key, value[key])]
    if len(inner) == 1 and (nested := rows_of(value[inner[0]], name))[0][1]:
        return [(split, f"{inner[0]}.{key}", rows) for split, key, rows in nested]
    if _keyed(value):
        return [(None, "", list(value.values()))]
    return [(None, "", [value])]


def keys_beside(value: dict[str, Any], keys: list[str]) -> list[str]:
    """Return the keys of a whole file that hold something else than its rows, under ``keys``."""
    if keys == [""]:
        return []
    outer = next((key for key in value if keys[0].startswith(f"{key}.")), None)
    used, inner = keys, []
    if keys[0] not in value and outer is not None:
        used = [outer]
        inner = keys_beside(value[outer], [key.removeprefix(f"{outer}.") for key in keys])
    beside = [key for key in value if key not in used and value[key] not in (None, "", [], {})]
    return beside + [f"{outer}.{key}" for key in inner]


def _holds_rows(key: str, value: dict[str, Any]) -> bool:
    """Whether an object in the object of a whole file may be what holds its rows."""
    names = {*ROWS_KEYS, *SPLIT_NAMES}
    return key.lower() in ROWS_KEYS or any(
        inner.lower() in names and _row_list(inner, value[inner]) is not None for inner in value
    )


def _rows(value: Any) -> Rows | None:
    """Return ``value`` if it may be rows: a list of objects or lists, or an empty one."""
    if isinstance(value, list) and all(isinstance(row, (dict, list)) for row in value[:10]):
        return value
    return None


def _row_list(key: str, value: Any) -> Rows | None:
    """Return ``value`` if it is a list of rows, rather than the messages of one."""
    rows = _rows(value)
    if not rows or any(is_message(row) for row in rows[:10]):
        return None
    if isinstance(rows[0], list):
        return rows if any(is_message(item) for item in rows[0][:10]) else None
    holds_lists = any(isinstance(item, list) for item in rows[0].values())
    return None if key.lower() in MESSAGES_KEYS and not holds_lists else rows


def _keyed(value: dict[str, Any]) -> bool:
    """Whether it is an object of rows, each under its number or name."""
    rows = list(value.values())
    if not rows or not all(isinstance(row, dict) for row in rows):
        return False
    numbered = all(key.isdigit() for key in value)
    return numbered or (
        len(rows) > 1 and len(rows[0]) > 1 and len({frozenset(r) for r in rows}) == 1
    )


def _refuse(value: dict[str, Any], name: str) -> None:
    """Refuse columns instead of rows, and notebooks."""
    what = None
    columns = list(value.values())
    if "nbformat" in value:
        what = "a Jupyter notebook"
    elif {"columns", "data"} <= value.keys() and _all_lists(value["data"]):
        what = "a table as pandas writes it with orient=split"
    elif columns and all(_is_numbered(column) for column in columns):
        what = "a table of columns, as pandas writes it with to_json"
    elif len(columns) > 1 and all(map(_is_plain, columns)) and len(set(map(len, columns))) == 1:
        what = "a table of columns, each a list"
    if what:
        raise UserError(
            f"{name}: this is {what}, not rows: {JSON_LINES}; with pandas: "
            f"to_json(..., orient='records', lines=True)"
        )


def _all_lists(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(row, list) for row in value)


def _is_numbered(column: Any) -> bool:
    return (
        isinstance(column, Mapping)
        and bool(column)
        and all(key.isdigit() for key in column)
        and not all(isinstance(item, Mapping) for item in column.values())
    )


def _is_plain(column: Any) -> bool:
    return (
        isinstance(column, Sequence)
        and not isinstance(column, str)
        and not any(isinstance(item, (dict, list)) for item in column)
    )
