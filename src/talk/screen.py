"""A terminal: answers go to standard output, everything else to standard error."""

import os
import re
import sys
from typing import TextIO

from src.errors import UserError

DIM, RED, PLAIN = "\x1b[2m", "\x1b[31m", "\x1b[0m"

# Control characters but for line breaks and tabs: a model could move the cursor, or worse.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def show(piece: str) -> None:
    """Print a piece of an answer at once; for a terminal, control characters become U+FFFD."""
    print(CONTROL.sub("\ufffd", piece) if sys.stdout.isatty() else piece, end="", flush=True)


def note(text: str) -> None:
    """Print a line that is no answer."""
    _say(text, DIM)


def complain(error: UserError) -> None:
    """Print a person's mistake."""
    _say(f"error: {error}", RED)


def _say(text: str, style: str) -> None:
    print(
        f"{style}{text}{PLAIN}" if wants_colour(sys.stderr) else text, file=sys.stderr, flush=True
    )


def wants_colour(stream: TextIO) -> bool:
    """Whether ``stream`` is a terminal that shows colours, and NO_COLOR (no-color.org) is unset."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return stream.isatty() and not plain
