"""A terminal: answers go to standard output, everything else to standard error."""

import itertools
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import TextIO

from src.errors import UserError
from src.talk.word_wrap import WordWrap

DIM, RED, PLAIN = "\x1b[2m", "\x1b[31m", "\x1b[0m"
ERASE_LINE = "\r\x1b[K"
FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
PLAIN_FRAMES = "|/-\\"  # where the encoding has no others
SECONDS_UNTIL_SIGN = 0.3  # a sign for less would only flicker
SECONDS_A_FRAME = 0.1
NO_LIMIT = 1_000_000  # columns of a terminal that does not say how many it has

# Control characters but for line breaks and tabs: a model could move the cursor, or worse.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def visible(text: str) -> str:
    """Return a text that moves no cursor: a control character becomes U+FFFD."""
    return CONTROL.sub("\ufffd", text)


class Answer:
    """An answer on standard output, shown as it comes.

    At a terminal its lines end between words, and control characters become U+FFFD; a pipe or a
    file gets the text as it is.
    """

    def __init__(self) -> None:
        self.wrap = WordWrap(lambda: columns(sys.stdout)) if sys.stdout.isatty() else None

    def show(self, piece: str) -> None:
        """Show the next piece."""
        shown = self.wrap.push(visible(piece)) if self.wrap else piece
        print(shown, end="", flush=True)

    def end(self) -> None:
        """Show what is left, and end the line."""
        print(self.wrap.finish() if self.wrap else "", flush=True)


@contextmanager
def waiting(reason: str) -> Iterator[None]:
    """Show on a terminal that something goes on meanwhile, and remove it in the end."""
    if not wants_signs(sys.stderr):
        yield
        return
    ended = Event()
    sign = Thread(target=_turn, args=(reason, ended), daemon=True)
    sign.start()
    try:
        yield
    finally:
        ended.set()
        sign.join()


def _turn(reason: str, ended: Event) -> None:
    if ended.wait(SECONDS_UNTIL_SIGN):
        return
    for frame in itertools.cycle(_frames(sys.stderr.encoding)):
        line = f"{frame} {reason}"[: columns(sys.stderr) - 1]
        print(f"{ERASE_LINE}{line}", end="", file=sys.stderr, flush=True)
        if ended.wait(SECONDS_A_FRAME):
            break
    print(ERASE_LINE, end="", file=sys.stderr, flush=True)


def _frames(encoding: str) -> str:
    try:
        FRAMES.encode(encoding)
    except UnicodeEncodeError:
        return PLAIN_FRAMES
    return FRAMES


def note(text: str) -> None:
    """Print a line that is no answer."""
    _say(text, DIM)


def complain(error: UserError) -> None:
    """Print a person's mistake."""
    _say(f"error: {error}", RED)


def _say(text: str, style: str) -> None:
    if sys.stderr.isatty():
        wrap = WordWrap(lambda: columns(sys.stderr))
        text = wrap.push(text) + wrap.finish()
    print(
        f"{style}{text}{PLAIN}" if wants_colour(sys.stderr) else text, file=sys.stderr, flush=True
    )


def columns(stream: TextIO) -> int:
    """Return how many columns the terminal has at this moment."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or NO_LIMIT
    except (OSError, ValueError):  # no terminal
        return NO_LIMIT


def wants_signs(stream: TextIO) -> bool:
    """Whether ``stream`` is a terminal on which a line can be written over."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def wants_colour(stream: TextIO) -> bool:
    """Whether ``stream`` is a terminal that shows colours, and NO_COLOR (no-color.org) is unset."""
    return wants_signs(stream) and not os.environ.get("NO_COLOR")
