"""Variants take turns; of a variant's settings the fastest is the one that takes them."""

import importlib.util
import logging
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

from src.benchmark.stopwatch import Repeat
from src.benchmark.turns import Failed, Job, Setting, Variant, take_turn

log = logging.getLogger(__name__)


@dataclass
class Measured:
    """A variant's repeats, in the order of the rounds, and every setting that was tried."""

    setting: Setting
    tried: list[dict[str, Any]] = field(default_factory=list)
    repeats: list[Repeat] = field(default_factory=list)

    @property
    def per_second(self) -> float:
        """The median of the speeds."""
        return median(self.speeds)

    @property
    def speeds(self) -> list[float]:
        """Tokens or rows a second, by round."""
        return [repeat.per_second for repeat in self.repeats]

    @property
    def seconds_per_lap(self) -> list[float]:
        """The time of a step, by round."""
        return [repeat.seconds / repeat.num_laps for repeat in self.repeats]


def measure(part: str, variants: list[Variant], job: Job) -> dict[str, Measured]:
    """Return what was measured, by variant, of those that the config asks for.

    One that cannot run or fails is left out, with a warning. ``part`` names logs and folders.
    """
    measured: dict[str, Measured] = {}
    variants = [variant for variant in variants if job.config.has(variant.name)]
    for variant in variants:
        if reason := _obstacle(variant, job):
            log.warning("warning: %s %s left out: %s", part, variant.name, reason)
        elif chosen := _choose_setting(part, variant, job):
            measured[variant.name] = chosen
    for number in range(1, job.config.repeats + 1):
        for variant in variants:
            if variant.name not in measured:
                continue
            setting = measured[variant.name].setting
            try:
                repeat = _turn(part, variant, setting, job, f"{number}/{job.config.repeats}")
            except Failed as failure:
                log.warning("warning: %s left out: %s", part, failure)
                measured.pop(variant.name)
                continue
            measured[variant.name].repeats.append(repeat)
    return measured


def _obstacle(variant: Variant, job: Job) -> str | None:
    if variant.needs_gpu and job.device.type == "cpu":
        return "needs a GPU"
    if variant.needs is not None and importlib.util.find_spec(variant.needs) is None:
        return f"{variant.needs} is not installed (pip install 'gpt2-chat[peers]')"
    return None


def _choose_setting(part: str, variant: Variant, job: Job) -> Measured | None:
    """Return the variant's fastest setting, without repeats; None if none of them runs."""
    if len(variant.settings) == 1:
        return Measured(variant.settings[0])
    tried: list[dict[str, Any]] = []
    for setting in variant.settings:
        try:
            speed = _turn(part, variant, setting, job, "trying").per_second
            tried.append({**setting, "per_second": speed})
        except Failed as failure:
            tried.append({**setting, "failed": str(failure)})
            log.warning("warning: %s %s: %s", part, dict(setting), failure)
    speeds = [one.get("per_second", 0.0) for one in tried]
    if not any(speeds):
        return None
    return Measured(variant.settings[speeds.index(max(speeds))], tried)


def _turn(part: str, variant: Variant, setting: Setting, job: Job, number: str) -> Repeat:
    job = replace(job, folder=job.folder / f"{part}_{variant.name}")
    repeat = take_turn(variant, setting, job)
    shown = " ".join(f"{key}={value}" for key, value in setting.items())
    speed = f"{repeat.per_second:,.0f}"
    log.info("%-9s %-7s %-18s %12s/s  %s", part, number, variant.name, speed, shown)
    return repeat
