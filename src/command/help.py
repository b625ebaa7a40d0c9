"""What ``--help`` prints: what a door does, five examples, its groups and its keys."""

import os
import shutil
import sys
import textwrap
from collections.abc import Iterator
from typing import TextIO

from src.command.conf_text import DoorText, Group, Key, door_text

WIDTH = 100  # columns, at most
NARROWEST = 50  # below it, nothing is wrapped any more
INDENT = "  "
LONGEST_NAME, LONGEST_VALUE = 34, 12  # a longer one has a line of its own
BOLD, PLAIN = "\x1b[1m", "\x1b[0m"


def print_help(door: str) -> None:
    """Print the help of a door to standard output."""
    for line in help_lines(door_text(door), _width(sys.stdout), _is_bold(sys.stdout)):
        print(line)


def help_lines(text: DoorText, width: int, bold: bool = False) -> Iterator[str]:
    """Yield the lines of a door's help, none longer than ``width`` unless a word is."""

    def heading(words: str) -> str:
        return f"{BOLD}{words}{PLAIN}" if bold else words

    yield from _wrapped(" ".join(text.sentences), width)
    if text.examples:
        yield from ("", heading("Examples"))
        yield from _examples(text.examples, width)
    if text.groups:
        yield from ("", heading("Groups: a choice sets many keys at once"))
        for group in text.groups.values():
            yield from _group(group, width)
    yield from ("", heading("Keys: values as they are, what they mean"))
    yield from _keys(list(text.keys.values()), width)
    yield ""
    yield from _wrapped(
        "A key is set by key=value, in any order. --cfg job shows all values and runs nothing; -m "
        "runs once for each of several values: key=a,b",
        width,
    )


def _examples(examples: list[tuple[str, str]], width: int) -> Iterator[str]:
    widest = max(len(command) for command, _ in examples)
    longest = max(len(comment) for _, comment in examples)
    beside = len(INDENT) + widest + len("   # ") + longest <= width
    for command, comment in examples:
        if beside:
            yield f"{INDENT}{command:<{widest}}   # {comment}".rstrip(" #")
        else:
            yield from _wrapped(f"# {comment}" if comment else "", width, INDENT, f"{INDENT}# ")
            yield f"{INDENT}{command}"


def _group(group: Group, width: int) -> Iterator[str]:
    start = f"{INDENT}{group.name}="
    line = start
    for number, option in enumerate(group.options):
        piece = option + ("|" if number < len(group.options) - 1 else "")
        if len(line) + len(piece) > width and line.strip():
            yield line
            line = " " * len(start)
        line += piece
    yield line
    default = f"default: {group.default}" if group.default else ""
    yield from _wrapped("; ".join(filter(None, (group.comment, default))), width, INDENT * 3)


def _keys(keys: list[Key], width: int) -> Iterator[str]:
    name_width = min(max((len(key.name) for key in keys), default=0), LONGEST_NAME)
    values = {key.name: _value(key) for key in keys}
    fitting = [len(value) for value in values.values() if len(value) <= LONGEST_VALUE]
    value_width = max(fitting, default=0)
    room = len(INDENT) + name_width + 2 + value_width + 2
    section = ""
    for key in keys:
        before, section = section, key.name.rpartition(".")[0]
        if section != before or key.notes:
            yield ""
        for note in key.notes:
            yield from _wrapped(f"# {note}", width, INDENT, f"{INDENT}# ")
        start = f"{INDENT}{key.name:<{name_width}}  {values[key.name]:<{value_width}}  "
        if len(start) > room or width - room < NARROWEST // 2:
            name, value = f"{INDENT}{key.name}", values[key.name]
            yield from [start.rstrip()] if len(start.rstrip()) <= width else [name, f"    {value}"]
            start = " " * (room if width - room >= NARROWEST // 2 else 6)
            if not key.comment:
                continue
        yield from _wrapped(key.comment, width, start, " " * len(start)) or [start.rstrip()]


def _value(key: Key) -> str:
    """Return a key's value as it is written; of a long list, how many entries it has."""
    if len(key.value) <= LONGEST_VALUE or not key.value.startswith("["):
        return key.value
    return f"[{key.value.count(', ') + 1} entries]"


def _wrapped(text: str, width: int, first: str = "", others: str | None = None) -> list[str]:
    """Return text in lines; the others begin as the first does, unless told."""
    return textwrap.wrap(
        text,
        width,
        initial_indent=first,
        subsequent_indent=first if others is None else others,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _width(stream: TextIO) -> int:
    """Return the columns to fill: those of a terminal, if it has fewer than ours."""
    columns = shutil.get_terminal_size((WIDTH, 24)).columns if stream.isatty() else WIDTH
    return max(NARROWEST, min(WIDTH, columns))


def _is_bold(stream: TextIO) -> bool:
    """Whether headings are bold: at a terminal that has it, unless NO_COLOR is set."""
    return stream.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("NO_COLOR")
