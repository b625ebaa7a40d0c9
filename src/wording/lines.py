"""Lines that fit a screen: broken between words at a terminal, and as they are everywhere else.

A file and a pipe get each message on one line, so that ``grep`` finds it whole. At a terminal a
command that is longer than a line goes on behind a backslash: it can still be copied.
"""

import os
import re
import textwrap
from typing import TextIO

WIDTH = 100  # columns, at most
NARROWEST = 40  # below it, the terminal breaks lines itself
LABEL = re.compile(r"\S[^:]{0,13}:? {2,}|warning: |error: ")  # what follows it is aligned
COMMAND = re.compile(
    r"(?:.*(?:: +| {2,})|)(?P<command>(?:python -m|tensorboard|curl|llama-cli|ollama|transformers) "
    r"[^()]*)"
)
WORD = re.compile(r"""(?:[^\s"']|"[^"]*"|'[^']*')+""")
TABLE = re.compile(r"\S {3,}\S")  # columns that stand below others
ON = " \\"  # the command goes on


def fitted(text: str, stream: TextIO) -> str:
    """Return ``text`` with lines as long as ``stream`` shows them; unchanged if no terminal."""
    width = columns(stream)
    if width is None or width < NARROWEST:
        return text
    return "\n".join(part for line in text.split("\n") for part in wrapped(line, width))


def columns(stream: TextIO) -> int | None:
    """Return the columns to fill of a terminal, ours at most; None: it is none."""
    try:
        if not stream.isatty():
            return None
        return min(WIDTH, os.get_terminal_size(stream.fileno()).columns or WIDTH)
    except (OSError, ValueError):  # no descriptor, or closed
        return None


def wrapped(line: str, width: int) -> list[str]:
    """Return a line in parts of at most ``width``; a longer word stays whole."""
    match = LABEL.match(line)
    start = match[0] if match and match.end() < width // 2 else ""
    body = line[len(start) :]
    if len(line) <= width or TABLE.search(body):
        return [line]
    indent = " " * (len(start) if start.endswith("  ") or ":" not in start else 2)
    command = COMMAND.fullmatch(line)
    prose = line if command is None else line[: command.start("command")].rstrip()
    parts = textwrap.wrap(
        prose[len(start) :],
        width,
        initial_indent=start,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [start.rstrip()]
    if command is None:
        return parts
    words = WORD.findall(command["command"])
    if prose.strip() == start.strip():  # the label alone: the command stands beside it
        return _command(words, start, indent, width)
    return [*parts, *_command(words, indent, indent + "  ", width)]


def _command(words: list[str], first: str, others: str, width: int) -> list[str]:
    """Return a command in lines that a shell reads as one."""
    lines = [first + " ".join(words[:3])]  # python -m src.door
    for word in words[3:]:
        if len(lines[-1]) + len(word) + 1 <= width - len(ON):
            lines[-1] += f" {word}"
        else:
            lines[-1] += ON
            lines.append(others + word)
    return lines
