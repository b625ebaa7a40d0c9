"""Rows of JSON text, whichever of these the file is::

    {"prompt": ...}                    JSON lines: an object or a bare list of messages a line
    {"prompt": ...}

    [{"prompt": ...}, ...]             one list of rows, or of lists of messages

    {                                  objects one after another, on as many lines as they like
      "prompt": ...
    }{ ... }

    {"data": [...]}                    one object that holds the rows, or those of each split
    {"train": [...], "test": [...]}

All but the last are read one row at a time.
"""

from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Any

from src.data.files.json_text import BadJson, JsonStream, NameTwice, scan, values_of
from src.data.files.objects import as_row, is_message, keys_beside, rows_of
from src.data.files.part import Broken, Part, Record
from src.data.files.text import (
    LONGEST_LINE,
    STOPS,
    TOO_LONG,
    Text,
    broken_end,
    end_of_reading,
    skip_line,
)
from src.errors import UserError

LINE_LIMIT = 1 << 20  # characters of a first line that is looked at whole
LINES_LOOKED_AT = 20


def json_parts(text: Text) -> list[Part]:
    """Return the rows of JSON text, a part for each split that it names.

    Raises:
        UserError: it is laid out in a way that is not read.
    """
    name = text.stored.name
    try:
        if _is_lines(text):
            return [Part(name, None, partial(_lines, text))]
        with text.open() as file:
            stream = JsonStream(file)
            if stream.peek() == "[":
                return [Part(name, None, partial(_list_records(text), text))]
            line = stream.line
            try:
                first = stream.value()
            except BadJson:
                first = None  # its record says so
            if first is None or stream.peek() or _complaint(first, text):
                return [Part(name, None, partial(_values, text))]
    except STOPS as error:
        raise UserError(f"{name}: {end_of_reading(error)}") from error
    if not isinstance(first, dict):
        raise UserError(f"{name}: expected rows, found one {type(first).__name__}")
    found = rows_of(first, name)
    if found[0][2] == [first]:
        return [Part(name, None, lambda: [(line, first)])]
    beside = tuple(f"key {key}" for key in keys_beside(first, [key for _, key, _ in found]))
    return [
        Part(
            f"{name}[{key}]" if key else name,
            split,
            partial(_numbered, rows),
            "row",
            () if number else beside,
        )
        for number, (split, key, rows) in enumerate(found)
    ]


def _is_lines(text: Text) -> bool:
    """Whether each line is a value of its own."""
    with text.open() as file:
        lines = (line for line in iter(partial(file.readline, LINE_LIMIT), "") if line.strip())
        first = next(lines, "")
        rest: list[str] = []
        try:
            rest += islice(lines, LINES_LOOKED_AT)
        except STOPS:  # its records name the place
            if _is_values(first):
                return True
    if not rest:
        return _is_several(first)
    if _is_values(first):
        return True
    start = first.lstrip()[:1]
    closed = first.rstrip().rstrip(",").endswith(("}", "]"))
    if (start == "{" and _is_value(text)) or (start == "[" and not closed):
        return False  # on several lines
    alike = [line for line in rest if line.startswith(start if start in "{[" else ("{", "["))]
    return any(map(_is_values, alike)) or (closed and len(alike) == len(rest))


def _is_value(text: Text) -> bool:
    """Whether the text begins with a value that takes several lines."""
    with text.open() as file:
        stream = JsonStream(file)
        stream.peek()
        line = stream.line
        try:
            stream.value()
        except NameTwice:
            return stream.line > line
        except BadJson:
            return False
    return stream.line > line


def _is_values(line: str) -> bool:
    try:
        return all(isinstance(value, (dict, list)) for value in values_of(line))
    except BadJson:
        return False


def _is_several(line: str) -> bool:
    """Whether the only line holds several values."""
    try:
        return len(list(values_of(line))) > 1
    except BadJson:
        return False


def _lines(text: Text) -> Iterator[Record]:
    number = 0
    try:
        with text.open() as file:
            lines = iter(partial(file.readline, LONGEST_LINE), "")
            for number, line in enumerate(lines, start=1):
                if len(line) == LONGEST_LINE:
                    skip_line(file)
                    yield number, Broken(TOO_LONG)
                    continue
                try:
                    value, end = scan(line, 0)
                    whole = type(value) is dict and (line[end:] in _LINE_ENDS)
                except (ValueError, StopIteration, RecursionError):
                    whole = False
                if whole and (line.isascii() or text.complaint(line) is None):
                    yield number, value
                else:
                    yield from ((number, record) for record in _unusual(line, text))
    except STOPS as error:
        yield number + 1, broken_end(error)


_LINE_ENDS = ("\n", "\r\n", "\r", "")


def _unusual(line: str, text: Text) -> Iterator[Any]:
    """Yield what a line holds that is not just one object."""
    if not line.strip():
        return
    if complaint := text.complaint(line):
        yield Broken(complaint)
        return
    try:
        yield from map(_checked, list(values_of(line)))  # all of them or none
    except BadJson as error:
        yield Broken(_no_json(str(error), line, error.position))


def _no_json(what: str, line: str, position: int) -> str:
    near = line[max(position - 20, 0) : position + 20].strip()
    hint = ""
    if line.lstrip().startswith(("{'", "[{'")):
        hint = "; this is Python's notation: write it with json.dumps"
    elif line.rstrip().endswith("},"):
        hint = "; a line ends without a comma"
    return f"not valid JSON: {what}" + (f", near {near!r}" if near else "") + hint


def _checked(value: Any) -> Any:
    """Return a row, or what stands there instead of one."""
    row = as_row(value)
    if isinstance(row, dict):
        return row
    return Broken(f"expected an object like {{...}}, found {type(value).__name__}")


def _numbered(rows: list[Any]) -> Iterator[Record]:
    for number, value in enumerate(rows, start=1):
        yield number, _checked(value)


def _list_records(text: Text) -> Any:
    """Return what reads a file that begins with a list: of rows, or of messages."""
    with text.open() as file:
        stream = JsonStream(file)
        stream.skip("[")
        if stream.peek() == "]":
            return _elements
        try:
            first = stream.value()
        except BadJson:
            return _elements
        if isinstance(first, str):
            raise UserError(
                f"{text.stored.name}: this is one list of texts: write each conversation on a "
                f"line of its own, as a list or an object"
            )
    return _values if is_message(first) else _elements


def _elements(text: Text) -> Iterator[Record]:
    """Yield the elements of the one list."""
    with text.open() as file:
        stream = JsonStream(file)
        stream.skip("[")
        try:
            stream.peek()
            indent = stream.indent()
            while stream.peek() not in ("]", ""):
                line = stream.line
                try:
                    value = stream.value()
                except BadJson as error:
                    twice = isinstance(error, NameTwice)
                    goes_on = twice or (indent is not None and stream.find(indent + "{"))
                    yield error.position, _broken(error, goes_on)
                    if not goes_on:
                        return
                    if twice:
                        stream.skip(",")
                    continue
                complaint = _complaint(value, text) if stream.has_bad_bytes else None
                yield line, Broken(complaint) if complaint else _checked(value)
                if not stream.skip(",") and stream.peek() not in ("]", ""):
                    yield stream.line, Broken("not valid JSON: a comma is missing before this")
            if not stream.skip("]"):
                yield stream.line, Broken("not valid JSON: the list has no end; the file is cut")
            elif stream.peek():
                yield stream.line, Broken("not valid JSON: something follows the list")
        except STOPS as error:
            yield stream.line, broken_end(error)


def _broken(error: BadJson, goes_on: bool) -> Broken:
    """Say what is broken, and whether rows behind it are lost with it."""
    at_end = goes_on or "the file ends" in str(error)
    return Broken(f"not valid JSON: {error}{'' if at_end else '; nothing after this is read'}")


def _values(text: Text) -> Iterator[Record]:
    """Yield the values that stand one after another."""
    with text.open() as file:
        stream = JsonStream(file)
        try:
            while stream.peek():
                line = stream.line
                try:
                    value = stream.value()
                except BadJson as error:
                    goes_on = isinstance(error, NameTwice) or stream.find("{", outside=True)
                    yield error.position, _broken(error, goes_on)
                    if not goes_on:
                        return
                    continue
                complaint = _complaint(value, text) if stream.has_bad_bytes else None
                yield line, Broken(complaint) if complaint else _checked(value)
        except STOPS as error:
            yield stream.line, broken_end(error)


def _complaint(value: Any, text: Text) -> str | None:
    """Return what is wrong with the bytes of a decoded value."""
    for item in _texts(value):
        if not item.isascii() and (complaint := text.complaint(item)):
            return complaint
    return None


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
