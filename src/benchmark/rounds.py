"""Variants take turns; of a variant's settings the fastest is the one that takes them."""

import importlib.util
import logging
import math
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

from src.benchmark.stopwatch import Repeat, free_memory_bytes
from src.benchmark.workers import LONG_LAP, Failed, Job, Setting, Variant, Worker

log = logging.getLogger(__name__)


@dataclass
class Measured:
    """A variant's repeats, in the order of the rounds, and every setting that was tried."""

    setting: Setting
    tried: list[dict[str, Any]] = field(default_factory=list)
    repeats: list[Repeat] = field(default_factory=list)

    @property
    def per_second(self) -> float:
        """The median of the repeats: tokens or rows a second."""
        return median(repeat.per_second for repeat in self.repeats)

    @property
    def spread(self) -> list[float]:
        """The slowest and the fastest repeat."""
        speeds = [repeat.per_second for repeat in self.repeats]
        return [min(speeds), max(speeds)]

    @property
    def seconds_per_lap(self) -> float:
        """The median time of a step."""
        return median(repeat.seconds / repeat.num_laps for repeat in self.repeats)

    @property
    def peak_memory_bytes(self) -> int:
        """The most memory that the variant's process had."""
        return max(repeat.peak_memory_bytes for repeat in self.repeats)


def measure(
    part: str,
    variants: list[Variant],
    job: Job,
    *,
    num_rounds: int,
    seconds: float,
    keep_alive: bool,
) -> dict[str, Measured]:
    """Return what was measured, by variant; one that fails is left out, with a warning.

    Args:
        part: for the log and the names of folders.
        variants: what takes turns.
        job: what they all work on; each gets a setting and a folder of its own.
        num_rounds: repeats of each.
        seconds: of a repeat, at least.
        keep_alive: whether a variant's process waits for its next turn, or is started anew. Those
            that wait are ended when what is free would not do for the largest.
    """
    workers: dict[str, Worker] = {}
    measured: dict[str, Measured] = {}

    def repeat(variant: Variant, number: str) -> Repeat | None:
        # The first step has no AdamW moments yet, so its memory is not that of training.
        workers[variant.name].long_lap = LONG_LAP if measured[variant.name].repeats else math.inf
        try:
            result = workers[variant.name].repeat(seconds)
        except Failed as failure:
            log.warning("warning: %s left out: %s", part, failure)
            workers.pop(variant.name).close()
            measured.pop(variant.name)
            return None
        log.info("%-9s %-7s %-16s %12s/s", part, number, variant.name, f"{result.per_second:,.0f}")
        return result

    try:
        for variant in variants:
            chosen = choose_setting(part, variant, job, seconds, keep_alive)
            if chosen is not None:
                workers[variant.name], measured[variant.name] = chosen
        for number in range(1, num_rounds + 1):
            for variant in variants:
                if variant.name not in measured:
                    continue
                result = repeat(variant, f"{number}/{num_rounds}")
                if result is None:
                    continue
                measured[variant.name].repeats.append(result)
                largest = max(m.peak_memory_bytes for m in measured.values() if m.repeats)
                if not keep_alive:
                    workers[variant.name].close()
                elif free_memory_bytes(job.device) < largest:
                    log.warning("warning: %s: memory is short, processes start anew", part)
                    for worker in workers.values():
                        worker.close()
    finally:
        for worker in workers.values():
            worker.close()
    return measured


def choose_setting(
    part: str, variant: Variant, job: Job, seconds: float, keep_alive: bool
) -> tuple[Worker, Measured] | None:
    """Return the worker with the variant's fastest setting; None if none of them runs."""
    if variant.needs is not None and importlib.util.find_spec(variant.needs) is None:
        log.warning(
            "warning: %s %s left out: %s is not installed (pip install 'gpt2-chat[peers]')",
            part,
            variant.name,
            variant.needs,
        )
        return None

    def worker(number: int, setting: Setting) -> Worker:
        name = f"{part}_{variant.name}_{number}"
        own = replace(job, setting=setting, folder=job.folder / name)
        return Worker(variant, own, job.folder.parent / "logs" / f"{name}.log")

    if len(variant.settings) == 1:
        return worker(0, variant.settings[0]), Measured(variant.settings[0])
    best: tuple[float, Worker] | None = None
    tried: list[dict[str, Any]] = []
    for number, setting in enumerate(variant.settings):
        candidate = worker(number, setting)
        try:
            speed = candidate.repeat(seconds).per_second
            if not keep_alive:
                candidate.close()
        except Failed as failure:
            candidate.close()
            tried.append({**setting, "failed": str(failure)})
            log.warning("warning: %s %s: %s", part, dict(setting), failure)
            continue
        except BaseException:
            candidate.close()
            if best is not None:
                best[1].close()
            raise
        tried.append({**setting, "per_second": speed})
        shown = " ".join(f"{key}={value}" for key, value in setting.items())
        log.info("%-9s %-7s %-16s %12s/s  %s", part, "trying", variant.name, f"{speed:,.0f}", shown)
        slower = candidate
        if best is None or speed > best[0]:
            slower, best = (best[1] if best else None), (speed, candidate)
        if slower is not None:
            slower.close()
    if best is None:
        return None
    return best[1], Measured(best[1].job.setting, tried)
