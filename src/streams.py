"""Standard input, output and error: usable, whatever a shell, a locale or a disk does to them."""

import codecs
import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from src.wording.lines import fitted


def decode_as_utf8(module: str) -> None:
    """Start this process again in Python's UTF-8 mode, if its locale has no letters but ASCII's.

    There, names of files and the texts of a command line arrive as single bytes. The mode is
    Python's default in the C locale (PEP 540), unless ``PYTHONUTF8=0`` forbids it.

    Args:
        module: that runs; only a program of its own is started again.
    """
    encoding = codecs.lookup(sys.getfilesystemencoding()).name
    if module == "__main__" and encoding == "ascii" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, sys.orig_argv)


def open_closed() -> None:
    """Give each stream that is closed (``>&-``) its number back, before a file gets it.

    Nothing comes from standard input then, and what goes to standard error is lost. Standard output
    refuses all that is written to it, so nobody takes an answer for written.
    """
    if sys.stdin is None:
        sys.stdin = os.fdopen(_devnull(0, os.O_RDONLY), encoding="utf-8")
    if sys.stdout is None:
        sys.stdout = os.fdopen(_devnull(1, os.O_RDONLY), "w", encoding="utf-8")
    if sys.stderr is None:  # print would write to standard output instead
        sys.stderr = os.fdopen(_devnull(2, os.O_WRONLY), "w", encoding="utf-8")


def _devnull(number: int, mode: int) -> int:
    descriptor = os.open(os.devnull, mode)
    if descriptor != number:
        os.dup2(descriptor, number)
        os.close(descriptor)
    return number


def escape_what_has_no_sign() -> None:
    """Write characters that the encoding of a stream lacks as ``\\u6570``, instead of failing.

    Standard input is UTF-8, as all files are, unless a person types it.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if isinstance(sys.stdin, io.TextIOWrapper) and not sys.stdin.isatty():
        sys.stdin.reconfigure(encoding="utf-8", errors="strict")


class OutputLost(OSError):
    """Standard output takes no more: its reader has gone, its disk is full, or it is closed."""


class Output(io.TextIOWrapper):
    """Standard output, whose errors can be told from those of other files."""

    def write(self, text: str) -> int:
        with _lost():
            return super().write(text)

    def flush(self) -> None:
        with _lost():
            super().flush()


@contextmanager
def _lost() -> Iterator[None]:
    try:
        yield
    except OutputLost:  # write flushes, too
        raise
    except OSError as error:
        raise OutputLost(error.errno, error.strerror) from error


def watch_output() -> None:
    """Let standard output raise OutputLost."""
    if type(sys.stdout) is io.TextIOWrapper:
        names = ("encoding", "errors", "line_buffering", "write_through")
        settings = {name: getattr(sys.stdout, name) for name in names}
        sys.stdout = Output(sys.stdout.detach(), **settings)


def flush() -> None:
    """Write what standard output still holds.

    Raises:
        OutputLost: it cannot be written.
    """
    sys.stdout.flush()


class Screen(logging.StreamHandler[TextIO]):
    """A log on a screen: its lines end between words."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines of a record."""
        return fitted(super().format(record), self.stream)


class LogFile(logging.FileHandler):
    """A log that ends its run where the disk takes no more, instead of printing tracebacks."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Raise what the system says, with the file's name."""
        error = sys.exception()
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        raise OSError(error.errno, error.strerror, self.baseFilename) from error


def give_up(stream: TextIO) -> None:
    """Let the interpreter end in peace: what is left in the buffer can be written nowhere."""
    with suppress(OSError, ValueError, io.UnsupportedOperation):
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, stream.fileno())
        os.close(sink)


def say(text: str, stream: TextIO | None = None) -> None:
    """Print text on standard output, or another stream, in lines that a terminal shows whole."""
    stream = stream or sys.stdout
    print(fitted(text, stream), file=stream, flush=True)


def complain(line: str) -> None:
    """Print a line on standard error, unless its disk is full, too: the exit code says it then."""
    try:
        print(fitted(line, sys.stderr), file=sys.stderr, flush=True)
    except OSError:
        give_up(sys.stderr)
