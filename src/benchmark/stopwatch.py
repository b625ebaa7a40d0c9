"""The one clock: whole steps are timed, after those that warm up."""

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor, nn

PROCESS_STATUS = Path("/proc/self/status")


class Finished(Exception):
    """The stopwatch has enough: the work may end."""


@dataclass(frozen=True)
class Repeat:
    """One timed stretch of whole steps."""

    seconds: float
    amount: int  # tokens or rows: what the steps got through
    num_laps: int  # steps
    peak_memory_bytes: int  # of the process, warm-up included

    @property
    def per_second(self) -> float:
        """Tokens or rows a second."""
        return self.amount / self.seconds


class Stopwatch:
    """Times whole steps on ``device``, once.

    After ``num_warmup_laps`` steps the clock runs for at least ``seconds`` and ``min_amount``
    tokens or rows; a step that has begun is finished.
    """

    def __init__(
        self, device: torch.device, seconds: float, num_warmup_laps: int, min_amount: int = 0
    ):
        self.device, self.seconds, self.min_amount = device, seconds, min_amount
        self.num_laps = -num_warmup_laps
        self.model: nn.Module | None = None
        self.repeat: Repeat | None = None

    def begin(self, model: nn.Module | None = None) -> None:
        """Start: all is loaded and the first step comes next; ``model`` is what learns."""
        self.model = model
        self._start_clock()

    def time(self, lap: Callable[[], int]) -> NoReturn:
        """Begin, and call ``lap`` on and on; it returns what it got through."""
        self.begin()
        while True:
            self.lap(lap())

    def _start_clock(self) -> None:
        synchronize(self.device)
        self.amount: int | Tensor = 0
        self.started = time.perf_counter()

    def lap(self, amount: int | Tensor) -> None:
        """Count a step that got through ``amount``.

        Raises:
            Finished: it was the last one; ``repeat`` says what was timed.
        """
        self.num_laps += 1
        if self.num_laps <= 0:
            self._start_clock()
            return
        self.amount = self.amount + amount
        if time.perf_counter() - self.started < self.seconds:
            return
        if self.min_amount and self.amount < self.min_amount:
            return
        synchronize(self.device)
        seconds = time.perf_counter() - self.started
        peak = peak_memory_bytes(self.device)
        self.repeat = Repeat(seconds, int(self.amount), self.num_laps, peak)
        raise Finished


def synchronize(device: torch.device) -> None:
    """Wait until ``device`` has finished its work."""
    if device.type != "cpu":
        torch.accelerator.synchronize()


def peak_memory_bytes(device: torch.device) -> int:
    """Return the most memory this process alone has had: allocated by CUDA, or else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    if PROCESS_STATUS.exists():  # Linux; its ru_maxrss would begin with the parent's
        (line,) = (x for x in PROCESS_STATUS.read_text().splitlines() if x.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS: bytes
