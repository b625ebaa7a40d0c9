"""JSON values out of text, one at a time, without the whole text in memory.

A name that stands twice in one object is refused: JSON's readers keep the last one and say nothing.
"""

import json
import json.scanner
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, TextIO

CHUNK = 1 << 18  # characters
LARGEST_VALUE = 1 << 27  # characters: a value is in memory whole, several times
SPACE = re.compile(r"[ \t\r\n]*")
NEAR_END = 64  # characters from the end where a value may only be incomplete


class BadJson(ValueError):
    """Text that is no JSON: what is wrong, and how many characters from the start."""

    def __init__(self, what: str, position: int):
        super().__init__(what)
        self.position = position


class NameTwice(BadJson):
    """A value that is whole, but in which a name stands twice in an object."""


class _Twice(ValueError):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _Twice(f'the name "{twice}" stands twice in an object')
    return values


_decoder: Any = json.JSONDecoder(object_pairs_hook=_unique)  # its type knows no scan_once
scan = _decoder.scan_once  # (text, start) -> (value, end); raises ValueError, StopIteration


def decode(text: str, start: int = 0) -> tuple[Any, int]:
    """Return the JSON value that begins at ``start`` and where it ends.

    Raises:
        BadJson: there is none; ``position`` is where it breaks.
    """
    try:
        return scan(text, start)
    except StopIteration as stop:
        raise BadJson("a value is expected", stop.value) from None
    except json.JSONDecodeError as error:
        raise BadJson(error.msg, error.pos) from None
    except RecursionError:
        raise BadJson("nested too deeply", start) from None
    except _Twice as error:
        raise NameTwice(str(error), start + _place_of_name_twice(text[start:])) from None
    except ValueError as error:  # a number of 5,000 digits
        raise BadJson(str(error), start) from None


def _place_of_name_twice(text: str) -> int:
    """Return where the object with a name twice begins; the scanner in C does not say."""
    decoder: Any = json.JSONDecoder(object_pairs_hook=_unique)
    scanner: Any = json.scanner  # its type knows no Python scanner
    parse_object, place = decoder.parse_object, 0

    def traced(text_and_start: tuple[str, int], *options: Any) -> Any:
        nonlocal place
        try:
            return parse_object(text_and_start, *options)
        except _Twice:
            place = place or text_and_start[1]
            raise

    decoder.parse_object = traced
    with suppress(ValueError, StopIteration, RecursionError):  # only the place is asked for
        scanner.py_make_scanner(decoder)(text, 0)
    return place


class JsonStream:
    """Values of a text one after another, with the number of the line where each begins."""

    def __init__(self, file: TextIO):
        self.file = file
        self.text = ""
        self.position = 0
        self.line = 1  # of ``position``
        self.ended = False
        self.has_bad_bytes = False  # so far, and so far as it has read ahead

    def _read(self) -> bool:
        """Read on; drop what is behind ``position``. Return whether there was more."""
        more = self.file.read(max(CHUNK, len(self.text) - self.position))
        self.text = self.text[self.position :] + more
        self.position = 0
        self.ended = not more
        self.has_bad_bytes |= not is_encodable(more)
        return bool(more)

    def _advance(self, end: int) -> None:
        self.line += self.text.count("\n", self.position, end)
        self.position = end

    def peek(self) -> str:
        """Return the next character that is no space; empty at the end."""
        next_one = self.text[self.position : self.position + 1]
        if next_one > " ":
            return next_one
        while True:
            match = SPACE.match(self.text, self.position)
            assert match is not None
            self._advance(match.end())
            if self.position < len(self.text):
                return self.text[self.position]
            if not self._read():
                return ""

    def skip(self, character: str) -> bool:
        """Go past ``character`` if it comes next."""
        if self.peek() != character:
            return False
        self.position += 1
        return True

    def value(self) -> Any:
        """Return the next value.

        Raises:
            BadJson: it is broken; ``position`` is then that of the line, counted from 1.
            NameTwice: likewise, and the value is passed over.
        """
        self.peek()
        while True:
            try:
                value, end = decode(self.text, self.position)
            except NameTwice as error:
                line = self.line + self.text.count("\n", self.position, error.position)
                self._advance(json.JSONDecoder().raw_decode(self.text, self.position)[1])
                raise NameTwice(str(error), line) from None
            except BadJson as error:
                certain = not str(error).startswith(
                    "Unterminated"
                ) and error.position + NEAR_END < len(self.text)
                line = self.line + self.text.count("\n", self.position, error.position)
                if not certain and len(self.text) - self.position > LARGEST_VALUE:
                    what = (
                        f"a value of more than {LARGEST_VALUE:,} characters: write one row a line"
                    )
                    raise BadJson(what, self.line) from None
                if not certain and not self.ended and self._read():
                    continue
                if not certain and error.position >= len(self.text.rstrip()):
                    raise BadJson("the file ends in the middle of a value", line) from None
                raise BadJson(str(error), line) from None
            if end == len(self.text) and not self.ended and not isinstance(value, (dict, list)):
                self._read()  # a number may go on
                continue
            self._advance(end)
            return value

    def find(self, line_start: str, outside: bool = False) -> bool:
        """Go to the next line after this one that begins with ``line_start``, if there is one.

        A line that seems to lie in a list is none, if it must be ``outside`` of lists.
        """
        while True:
            found = self.text.find("\n" + line_start, self.position)
            if found >= 0:
                before = self.text[self.position : found]
                if outside and before.count("[") > before.count("]"):
                    return False
                self._advance(found + 1)
                return True
            self._advance(max(self.position, len(self.text) - len(line_start)))
            if not self._read():
                return False

    def indent(self) -> str | None:
        """Return the spaces before ``position`` in its line; None: something else stands there."""
        before = self.text.rfind("\n", 0, self.position) + 1
        spaces = self.text[before : self.position]
        return None if spaces.strip() else spaces


def is_encodable(text: str) -> bool:
    """Whether ``text`` holds no lone surrogate, for which bytes stand that are no text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def values_of(line: str) -> Iterator[Any]:
    """Yield the values of one line, mostly one.

    Raises:
        BadJson: something in it is no value.
    """
    position, length = 0, len(line)
    while True:
        position = SPACE.match(line, position).end()  # type: ignore[union-attr]
        if position == length:
            return
        value, position = decode(line, position)
        yield value
