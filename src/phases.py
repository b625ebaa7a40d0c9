"""Where the wall time of a run goes: one phase at a time, so that the phases sum to the whole.

A run has one clock, and whoever does something that takes long says so::

    with phases.phase("saving"):
        ...

The time inside counts for that phase, and not for the one around it.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

OTHER = "other"  # what no phase is named for
SMALL = 0.01  # of the whole: phases below it are told together


class Clock:
    """The seconds of each phase, those of an earlier part of the run included."""

    def __init__(self, taken: bool = False) -> None:
        self.taken = taken  # by a run
        self.passed: dict[str, float] = {}
        self.phase = OTHER
        self.since = time.perf_counter()

    def enter(self, phase: str) -> str:
        """Count for ``phase`` from now on; return the phase until now."""
        now = time.perf_counter()
        before = self.phase
        self.passed[before] = self.passed.get(before, 0.0) + now - self.since
        self.phase, self.since = phase, now
        return before

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each phase until now; those that took none are left out."""
        self.enter(self.phase)
        return {phase: seconds for phase, seconds in self.passed.items() if seconds}

    def add(self, earlier: Mapping[str, float]) -> None:
        """Count the phases of an interrupted run, which this one goes on with."""
        for phase, seconds in earlier.items():
            self.passed[phase] = self.passed.get(phase, 0.0) + seconds


_clock = Clock(taken=True)


def begin() -> None:
    """Start the clock of the next run of this process, before that run is there."""
    global _clock
    _clock = Clock()


def take() -> None:
    """Use the clock that was started for this run, or start one."""
    if _clock.taken:
        begin()
    _clock.taken = True


def enter(phase: str) -> str:
    """Count for ``phase`` from now on; return the phase until now."""
    return _clock.enter(phase)


def seconds() -> dict[str, float]:
    """Return the seconds of each phase of the run until now."""
    return _clock.seconds()


def add(earlier: Mapping[str, float]) -> None:
    """Count the phases of an interrupted run, which this one goes on with."""
    _clock.add(earlier)


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Count what happens inside for the phase ``name``."""
    clock = _clock
    before = clock.enter(name)
    try:
        yield
    finally:
        clock.enter(before)


def in_words(passed: Mapping[str, float]) -> str:
    """Return where the seconds of the phases went, the longest first."""
    whole = sum(passed.values())
    large = {name: s for name, s in passed.items() if name != OTHER and s > SMALL * whole}
    longest = sorted(large, key=lambda name: -large[name])
    rest = whole - sum(large.values())
    parts = [f"{name.replace('_', ' ')} {_text(large[name])}" for name in longest]
    parts += [f"{OTHER} {_text(rest)}"] if rest > SMALL * whole else []
    return f"{_text(whole)}: {', '.join(parts)}"


def _text(passed: float) -> str:
    if passed < 10:
        return f"{passed:.1f} s"
    return f"{passed:.0f} s" if passed < 600 else f"{passed / 60:.0f} min"
