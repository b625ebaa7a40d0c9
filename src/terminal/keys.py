"""Keys that are pressed while a person waits: they do not show, and stand in the next prompt."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

try:
    import termios
except ImportError:  # Windows, whose console shows keys only when they are read
    termios = None  # type: ignore[assignment]


@contextmanager
def unseen_keys() -> Iterator[None]:
    """Let the terminal keep what is typed meanwhile, without showing it, for whoever reads next.

    That is the next prompt, or in the end the shell. Ctrl-C and Ctrl-Z work as ever. SIGTERM ends
    the program with code 143, and the terminal is as it was before.
    """
    if termios is None or sys.stdin is None or not sys.stdin.isatty():
        yield
        return
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    quiet = termios.tcgetattr(terminal)
    quiet[0] &= ~termios.ICRNL  # Enter comes as a line editor expects it
    quiet[3] &= ~(termios.ECHO | termios.ICANON)
    handler = signal.signal(signal.SIGTERM, _end)
    try:
        termios.tcsetattr(terminal, termios.TCSADRAIN, quiet)
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
        signal.signal(signal.SIGTERM, handler)


def _end(number: int, frame: object) -> None:
    sys.exit(128 + number)
