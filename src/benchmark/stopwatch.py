"""The one clock: whole steps are timed, after those that warm up."""

import re
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor, nn

PROCESS_STATUS = Path("/proc/self/status")


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


class Finished(Exception):
    """The stopwatch has enough: the work may end."""

    def __init__(self, repeat: Repeat):
        super().__init__()
        self.repeat = repeat


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

    def begin(self, model: nn.Module | None = None) -> None:
        """Start: all is loaded and the first step comes next; ``model`` is what learns."""
        self.model = model or self.model
        self._synchronize()
        self.amount: int | Tensor = 0
        self.started = time.perf_counter()

    def time(self, lap: Callable[[], int]) -> NoReturn:
        """Begin, and call ``lap`` on and on; it returns what it got through."""
        self.begin()
        while True:
            self.lap(lap())

    def lap(self, amount: int | Tensor) -> None:
        """Count a step that got through ``amount``; raise Finished if it was the last one."""
        self.num_laps += 1
        if self.num_laps <= 0:  # it warmed up
            self.begin()
            return
        self.amount = self.amount + amount
        enough_time = time.perf_counter() - self.started >= self.seconds
        # A look at the amount may wait for the device.
        if enough_time and (not self.min_amount or self.amount >= self.min_amount):
            self._synchronize()
            seconds = time.perf_counter() - self.started
            memory = peak_memory_bytes(self.device)
            raise Finished(Repeat(seconds, int(self.amount), self.num_laps, memory))

    def _synchronize(self) -> None:
        if self.device.type != "cpu":
            torch.accelerator.synchronize()


def peak_memory_bytes(device: torch.device) -> int:
    """Return the most memory this process alone has had: allocated by CUDA, or else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    if PROCESS_STATUS.exists():  # Linux; its ru_maxrss would begin with the parent's
        return 1024 * int(
            re.findall(r"VmHWM:\s+(\d+)", PROCESS_STATUS.read_text(encoding="utf-8"))[0]
        )
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS: bytes
