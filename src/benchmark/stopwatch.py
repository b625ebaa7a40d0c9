"""The clock inside a worker: steps are counted between two signals from the parent process."""

import resource
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
import torch
from torch import Tensor, nn

PROCESS_STATUS = Path("/proc/self/status")


class Finished(Exception):
    """The parent process wants no more repeats."""


@dataclass(frozen=True)
class Repeat:
    """One timed stretch of whole steps."""

    seconds: float
    amount: int  # tokens or rows: what the steps got through
    num_laps: int  # steps
    peak_memory_bytes: int  # of the process so far, warm-up included

    @property
    def per_second(self) -> float:
        """Tokens or rows a second."""
        return self.amount / self.seconds


class Stopwatch:
    """Times whole steps.

    Args:
        pipe: brings the least number of seconds of each repeat, or None to finish; takes Repeats.
        device: what must have finished its work before the clock is read.
        num_warmup_laps: steps before the first repeat, not timed.
        long_lap: seconds; a warm-up step that takes as long counts as the first repeat instead,
            for what starting up adds is little beside it.
    """

    def __init__(
        self, pipe: Connection, device: torch.device, num_warmup_laps: int, long_lap: float
    ):
        self.pipe = pipe
        self.device = device
        self.warmup_laps_left = num_warmup_laps
        self.long_lap = long_lap

    def begin(self, model: nn.Module | None = None) -> None:
        """Start the clock: all is loaded and the first step comes next.

        ``model`` is what learns, for those who want to see it afterwards (``learn.Lesson``).

        Raises:
            Finished: nothing is to be measured.
        """
        self._wait()

    def lap(self, amount: int | Tensor) -> None:
        """Count a step that got through ``amount``; at the end of a repeat, report it and wait.

        Raises:
            Finished: there is no other repeat.
        """
        self.num_laps += 1
        self.amount = self.amount + amount
        elapsed = time.perf_counter() - self.started
        if self.warmup_laps_left and elapsed < self.long_lap:
            self.warmup_laps_left -= 1
            self._start()
            return
        self.warmup_laps_left = 0
        if elapsed < self.seconds:
            return
        synchronize(self.device)
        elapsed = time.perf_counter() - self.started
        peak = peak_memory_bytes(self.device)
        self.pipe.send(Repeat(elapsed, int(self.amount), self.num_laps, peak))
        self._wait()

    def _wait(self) -> None:
        try:
            seconds = self.pipe.recv()
        except EOFError:  # the parent process is gone
            seconds = None
        if seconds is None:
            raise Finished
        self.seconds: float = seconds
        self._start()

    def _start(self) -> None:
        synchronize(self.device)
        self.num_laps = 0
        self.amount: int | Tensor = 0
        self.started = time.perf_counter()


def synchronize(device: torch.device) -> None:
    """Wait until ``device`` has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    elif device.type == "mps":
        torch.mps.synchronize()


def peak_memory_bytes(device: torch.device) -> int:
    """Return the most memory this process has had: allocated by CUDA, or else resident.

    What its child processes have is not counted.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    if PROCESS_STATUS.exists():  # Linux; its ru_maxrss would begin with the parent's
        (line,) = (x for x in PROCESS_STATUS.read_text().splitlines() if x.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS: bytes


def free_memory_bytes(device: torch.device) -> int:
    """Return what another process could have: of a GPU's memory, or of the machine's."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info()[0]
    return psutil.virtual_memory().available
