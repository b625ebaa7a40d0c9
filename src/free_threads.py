"""As many threads as cores are free, decided anew now and then between two tokens.

For a program that calls us: nothing runs beside it, and its threads stay where they are.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from src.adaptation import followed
from src.checks import AUTO
from src.free_cores import Load, Look, allowed_cores, load_now, look, next_free
from src.shared_cores import auto_threads, threads_in_torch

PERIOD = 0.5  # seconds between two looks
FRESH = 10.0  # seconds: what was seen before says nothing of now
GLANCE = 0.1  # seconds: ten ticks of the kernel's clock


class FreeThreads:
    """How many threads compute a reply, from one reply to the next.

    Args:
        threads: a number, or ``auto``.
        device: what computes: on a GPU, threads have little to do and follow nothing.
    """

    def __init__(self, threads: int | str, device: str):
        self.most = auto_threads() if threads == AUTO else int(threads)
        self.adapts = threads == AUTO and device == "cpu" and self.most > 1
        self.allowed = allowed_cores()
        self.free = self.most
        self._last: Look | None = None
        self._is_rising = False

    @contextmanager
    def meanwhile(self) -> Iterator[None]:
        """Compute with them within the context."""
        if self.adapts and (self._last is None or time.monotonic() - self._last.moment > FRESH):
            self.free = min(load_now(GLANCE).num_free(), self.most)
            self._last = look()
        with threads_in_torch(self.free if self.adapts else self.most), followed(self):
            yield

    def adapt(self) -> None:
        """Look again if the last look is old enough; take the number that fits."""
        if not self.adapts or self._last is None:
            return
        if time.monotonic() - self._last.moment >= PERIOD:
            before, self._last = self._last, look()
            load = Load.between(before, self._last, self.allowed)
            self.free, self._is_rising = next_free(self.free, self._is_rising, load, self.most)
        import torch

        if torch.get_num_threads() != self.free:
            torch.set_num_threads(self.free)
