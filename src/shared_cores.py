"""Threads that leave a core to the program that keeps it busy.

OpenMP's threads wait for each other by turning in a loop. If one of them does not get its core, the
others burn theirs until it does: beside one busy core, two threads are three times slower than one.
Another number of threads adds numbers in another order, so the bits are others. Hence:

    the number of threads    is chosen at the start: of as many as there are cores, the most that
                             the free ones serve in even rounds
    where they run           follows the load: on the free cores only, two threads on one in turns
    how they wait            while they share a core, they soon sleep instead of turning

What is trained is the same, bit by bit, whatever runs beside it. Where threads cannot be moved
(no Linux, no libgomp) there are at most as many as cores are free. What is only decoded or scored
follows the load with the number of its threads, too.
"""

import math
import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType

from src.adaptation import followed
from src.checks import AUTO
from src.free_cores import (
    BUSY,
    Load,
    Look,
    allowed_cores,
    binds_threads,
    keep_mask,
    load_now,
    look,
    next_free,
    num_cores,
    spare_cores,
)
from src.openmp import ShortWaits, openmp

EVEN = 0.9  # threads in rounds on fewer cores: the share of core time that they use, at least
PERIOD = 0.5  # seconds between two looks
TASKS = Path("/proc/self/task")
MOST_SLEEPERS = 32  # threads that only shorten the waits

Say = Callable[[str], object]


def choose_threads(most: int, free: int, can_move: bool) -> int:
    """Return how many threads to compute with beside other programs.

    Args:
        most: threads, where all cores are free.
        free: cores that are free.
        can_move: whether threads can be kept on the free cores.
    """
    if free >= most or not can_move:
        return min(most, free)
    return next((n for n in range(most, free, -1) if is_even(n, free)), free)


def is_even(threads: int, cores: int) -> bool:
    """Whether ``threads`` in turns keep ``cores`` busy nearly all the time."""
    return threads >= EVEN * cores * math.ceil(threads / cores)


def auto_threads(num_processes: int = 1, num_workers: int = 0) -> int:
    """Return how many threads each of ``num_processes`` of this machine may use at most.

    As many as torch would take (so ``OMP_NUM_THREADS`` counts), within its share of the cores; the
    workers that read for it have theirs.
    """
    import torch

    share = num_cores() // num_processes - min(num_workers, spare_cores(num_processes))
    return max(1, min(torch.get_num_threads(), share))


@contextmanager
def threads_in_torch(number: int) -> Iterator[None]:
    """Compute with so many threads, and as before afterwards."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def shared_cores(threads: int | str, device: str) -> Iterator[None]:
    """Compute meanwhile beside other programs, with ``threads`` or as many as are good (auto).

    Args:
        threads: a number, or ``auto``.
        device: what computes: on a GPU, threads have little to do and follow nothing.
    """
    most = auto_threads() if threads == AUTO else int(threads)
    if device != "cpu" or most == 1:
        with threads_in_torch(most):
            yield
        return
    load = load_now()
    follower = Follower(most, load, adapts=threads == AUTO)
    with threads_in_torch(follower.threads), follower:
        yield


def can_move() -> bool:
    """Whether threads can be kept on some cores, and wait in another way meanwhile.

    Where a person has OpenMP bind them to cores, they stay there.
    """
    has_masks = hasattr(os, "sched_setaffinity") and not binds_threads()
    return has_masks and openmp() is not None


class Follower:
    """Keeps the threads of this process on the cores that others leave free, as a context.

    Args:
        threads: how many compute; if it ``adapts``, at most.
        load: now, at the beginning.
        adapts: whether their number may change with the load.
        say: takes a sentence when a core is lost for the first time.
    """

    def __init__(
        self, threads: int, load: Load, adapts: bool = False, say: Say = lambda text: None
    ):
        self.most, self.adapts, self.say = threads, adapts, say
        self.allowed = allowed_cores()
        others = 0 if adapts else threads - 1  # that are there in any case
        self._num_sleepers = max(1, len(self.allowed) - others)
        self.can_move = can_move() and self._num_sleepers <= MOST_SLEEPERS
        self.used = self.allowed  # the cores that the threads are on
        self.free = min(load.num_free(), len(self.allowed))
        self.threads = min(threads, self.free) if adapts else threads
        self._load = load
        self._waits: ShortWaits | None = None
        self._mask_before: frozenset[int] | None = None
        self._is_rising = self._was_said = False
        self._chance = random.Random()  # of its own: a run draws from the other
        self._followed = ExitStack()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="cores", daemon=True)

    def __enter__(self) -> "Follower":
        self._mask_before = keep_mask(self.allowed)
        try:
            self._last = look()
            if self.most > 1:  # one thread waits for nobody, and the scheduler finds its core
                if self.can_move:
                    self._follow(self._load)
                self._thread.start()
        except BaseException:
            self._restore()
            raise
        self._followed.enter_context(followed(self, everywhere=True))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._followed.close()
        self._stop.set()
        try:
            if self._thread.is_alive():
                self._thread.join()
        finally:
            self._restore()

    def _restore(self) -> None:
        """Let the threads be on all cores and wait as before, as far as the kernel lets us."""
        try:
            with suppress(OSError):
                self._move(self.allowed)
            self._end_waits()
        finally:
            keep_mask(self._mask_before)

    def _watch(self) -> None:
        # Two processes that look at the same moments would flee from each other for ever.
        while not self._stop.wait(PERIOD * self._chance.uniform(0.8, 1.2)):
            with suppress(OSError):  # the kernel does not say: the threads stay where they are
                self.see(look())

    def see(self, now: Look) -> None:
        """Follow what was used since the last look."""
        load, self._last = Load.between(self._last, now, self.allowed), now
        most = len(self.allowed)
        self.free, self._is_rising = next_free(self.free, self._is_rising, load, most)
        if self.can_move:
            self._follow(load)

    def _follow(self, load: Load) -> None:
        """Let the threads wait and move as it fits the load."""
        is_short = self.free < min(self.threads, len(self.allowed))
        if is_short and self._waits is None:
            self._waits = ShortWaits(self._num_sleepers)
        self._move(self._cores(load))
        if not is_short:
            self._end_waits()

    def _end_waits(self) -> None:
        if self._waits is not None:
            self._waits.end()
            self._waits = None

    def _cores(self, load: Load) -> frozenset[int]:
        """Return the cores to be on: as many as are free, those that others use least.

        All, where the threads would need uneven rounds on those.
        """
        if self.free >= min(self.threads, len(self.allowed)):
            return self.allowed
        if not is_even(self.threads, self.free):
            return self.allowed
        within = sum(load.by_core.get(core, 0.0) for core in self.used) - load.own
        by_others = {
            core: within / len(self.used) if core in self.used else load.by_core.get(core, 0.0)
            for core in self.allowed
        }
        order = sorted(self.allowed, key=lambda core: (by_others[core], self._chance.random()))
        best = frozenset(order[: self.free])
        if len(self.used) == self.free:
            gain = sum(by_others[c] for c in self.used) - sum(by_others[c] for c in best)
            if gain < BUSY or self._chance.random() < 0.5:  # another of us may want it, too
                return self.used
        return best

    def _move(self, cores: frozenset[int]) -> None:
        """Keep all threads of this process on ``cores``."""
        if cores == self.used:
            return
        move_threads(self.used, cores)
        self.used = cores
        if cores != self.allowed and not self._was_said:
            self._was_said = True
            busy = len(self.allowed) - len(cores)
            self.say(
                f"other programs keep {busy} of {len(self.allowed)} cores busy: {self.threads} "
                f"threads share {len(cores)} meanwhile"
            )

    def adapt(self) -> None:
        """Compute with as many threads as fit the load; for the thread that computes."""
        if not self.adapts:
            return
        import torch

        self.threads = min(self.most, self.free)
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)


def move_threads(before: frozenset[int], cores: frozenset[int]) -> None:
    """Let all threads of this process, and those of its children that were on the same cores.

    A process starts on the cores of its parent, and would stay there.
    """
    for task in TASKS.iterdir():
        _move(int(task.name), cores)
        children = ""
        with suppress(OSError):  # it has ended, or the kernel does not say
            children = (task / "children").read_text(encoding="utf-8")
        for child in children.split():
            with suppress(OSError):  # it has ended
                for thread in Path(f"/proc/{child}/task").iterdir():
                    _move(int(thread.name), cores, before)


def _move(thread: int, cores: frozenset[int], before: frozenset[int] | None = None) -> None:
    """Keep a thread on ``cores``; if ``before`` is given, only where it is on just those."""
    with suppress(OSError):  # it has ended, or its cores were taken away meanwhile
        if before is None or os.sched_getaffinity(thread) == before:
            os.sched_setaffinity(thread, cores)
