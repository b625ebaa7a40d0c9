"""How far something long has come: a bar at a terminal, a line now and then elsewhere.

No line is wider than the terminal, nor than 100 columns. What has no room is left out whole, the
least important first: a figure that is cut says something else.
"""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, ClassVar

from tqdm import tqdm

MOST_COLUMNS = 100
LEAST_BAR, LONGEST_BAR = 8, 30  # columns
EIGHTHS = " ▏▎▍▌▋▊▉█"
GAP = "  "

log = logging.getLogger(__name__)


class Progress:
    """Counts what is done, and shows it: "validating 12/40 blocks".

    At a terminal it is a bar on standard error, which leaves one line; one that runs within another
    leaves none. Elsewhere it is a line every ten seconds, and a last one if there was any.

    Args:
        total: of what ``add`` counts; None: not known.
        title: what is done.
        unit: what is counted.
        initial: how many were done before.
        delay: seconds before anything is shown.
        say: takes a line where there is no terminal.
        says_end: whether the last line is said in any case.
    """

    SECONDS_BETWEEN_LINES: ClassVar[float] = 10.0
    num_bars: ClassVar[int] = 0

    def __init__(
        self,
        total: int | None,
        title: str,
        unit: str = "",
        *,
        initial: int = 0,
        delay: float = 0.0,
        say: Callable[[str], object] = log.info,
        says_end: bool = False,
    ):
        self.total, self.title, self.unit, self.done = total, title, unit, initial
        self.say, self.says_end = say, says_end
        self.figures: dict[str, str] = {}
        self.lock = threading.Lock()
        self.last_line = time.monotonic()
        self.said: int | None = None  # how many were done in the last line
        self.bar: _Bar | None = None
        if sys.stderr.isatty():
            self.bar = _Bar(self, initial=initial, delay=delay, leave=Progress.num_bars == 0)
            Progress.num_bars += 1
            _lift_the_log(above=True)

    def __enter__(self) -> "Progress":
        return self

    def add(self, number: int, figures: Mapping[str, str] | None = None) -> None:
        """Count ``number`` more as done, with the ``figures`` of now; from any thread."""
        with self.lock:
            if self.total is not None:
                number = min(number, self.total - self.done)  # a second pass over some
            self.done += number
            self.figures = dict(figures or self.figures)
            if self.bar is not None:
                self.bar.update(number)
            elif time.monotonic() - self.last_line > self.SECONDS_BETWEEN_LINES:
                self._line()

    def close(self, whole: bool = True) -> None:
        """Leave the bar as it stands; ``whole``: nothing went wrong."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None
            Progress.num_bars -= 1
            if not Progress.num_bars:
                _lift_the_log(above=False)
        elif whole and self.said != self.done and (self.said is not None or self.says_end):
            self._line()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close(whole=kind is None)

    def _line(self) -> None:
        self.last_line, self.said = time.monotonic(), self.done
        self.say(GAP.join([head(self), *_texts(self.figures)]))


class _AboveBars:
    """A stream whose lines stand above the bars, not in them.

    Args:
        stream: where the bars are, too.
    """

    def __init__(self, stream: Any):
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write ``text`` while no bar is shown."""
        with tqdm.external_write_mode(file=self.stream):
            return int(self.stream.write(text))


def _lift_the_log(above: bool) -> None:
    """Have the log write above the bars at standard error, or as it did."""
    for handler in logging.root.handlers:
        if not isinstance(handler, logging.StreamHandler):
            continue
        if above and handler.stream is sys.stderr:
            handler.stream = _AboveBars(handler.stream)
        elif not above and isinstance(handler.stream, _AboveBars):
            handler.stream = handler.stream.stream


class _Bar(tqdm):
    """tqdm's cursor and pace; the text is ours."""

    def __init__(self, progress: Progress, *, initial: int, delay: float, leave: bool):
        self.progress = progress
        super().__init__(
            total=progress.total,
            initial=initial,
            delay=delay,
            leave=leave,
            file=sys.stderr,
            smoothing=0,  # the pace of all: validations come at even distances
        )

    def __str__(self) -> str:
        now, left = self.format_dict, None
        done, total, elapsed = now["n"] - now["initial"], now["total"], now["elapsed"]
        is_over = total is not None and now["n"] >= total
        if total is not None and done:
            left = elapsed / done * (total - now["n"])
        return bar_line(
            self.progress,
            width=columns() - 1,
            seconds=elapsed if is_over or total is None else left,
            what="" if is_over or total is None else " left",
            unicode=_has_eighths(),
        )


def head(progress: Progress) -> str:
    """Return what is done and how much of it: "validating 12/40 blocks"."""
    of_all = "" if progress.total is None else f"/{progress.total:,}"
    return f"{progress.title} {progress.done:,}{of_all} {progress.unit}".rstrip()


def bar_line(
    progress: Progress, *, width: int, seconds: float | None, what: str, unicode: bool = True
) -> str:
    """Return one line of at most ``width`` columns: what is most important of it.

    Args:
        progress: what is shown.
        width: columns.
        seconds: that are left or have passed; None: not known.
        what: they are, as " left".
        unicode: whether the terminal has signs for eighths of a column.
    """
    text = head(progress)[: max(width, 0)]
    time_text = [f"{duration(seconds)}{what}"] if seconds is not None else []
    shown, room = "", width - len(text)
    for number, part in enumerate([*time_text, *_texts(progress.figures)]):
        if len(GAP) + len(part) <= room:
            shown += GAP + part
            room -= len(GAP) + len(part)
        elif number == 0:
            break
    length = min(room - len(GAP), LONGEST_BAR)
    if progress.total is None or length < LEAST_BAR:
        return text + shown
    return text + GAP + _filled(progress.done / max(progress.total, 1), length, unicode) + shown


def _has_eighths() -> bool:
    """Whether standard error can write the signs of a bar."""
    try:
        EIGHTHS.encode(sys.stderr.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _filled(share: float, length: int, unicode: bool) -> str:
    if not unicode:
        return ("#" * int(share * length)).ljust(length, ".")
    whole, eighths = divmod(int(share * length * 8), 8)
    return ("█" * whole + (EIGHTHS[eighths] if whole < length else "")).ljust(length)


def _texts(figures: Mapping[str, str]) -> list[str]:
    return [f"{label} {value}" for label, value in figures.items()]


def duration(seconds: float) -> str:
    """Return seconds as 4:05 or 1:04:05."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def columns() -> int:
    """Return the columns of the terminal at standard error, at most 100."""
    try:
        found = os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError):  # no terminal, or a stand-in without a number
        found = 0
    return min(found or 80, MOST_COLUMNS)
