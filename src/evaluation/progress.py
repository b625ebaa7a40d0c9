"""How far an evaluation has come: a bar at a terminal, lines elsewhere."""

import sys
import threading
import time
from types import TracebackType

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """A bar on standard error; without a terminal a line now and then, and one at the end.

    Args:
        total: of what ``add`` counts.
        title: what is done.
    """

    def __init__(self, total: int, title: str):
        self.total, self.title, self.done = total, title, 0
        self.lock = threading.Lock()
        self.bar: tqdm | None = None
        if sys.stderr.isatty():
            self.bar = tqdm(total=total, desc=title, unit="row", dynamic_ncols=True, leave=False)
        self.last_line = time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def add(self, number: int) -> None:
        """Count ``number`` more as done; from any thread."""
        with self.lock:
            number = min(number, self.total - self.done)  # a second pass over some rows
            self.done += number
            if self.bar is not None:
                self.bar.update(number)
            elif time.monotonic() - self.last_line > SECONDS_BETWEEN_LINES:
                self._line()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.bar is not None:
            self.bar.close()
        elif kind is None:
            self._line()

    def _line(self) -> None:
        self.last_line = time.monotonic()
        print(f"{self.title} {self.done:,}/{self.total:,}", file=sys.stderr, flush=True)
