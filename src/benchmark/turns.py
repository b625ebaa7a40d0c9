"""Variants take turns, each turn in a process of its own.

A process's peak memory is its own, and what a library changes in another does not reach it. Turns
go A B C, A B C, ..., so that a machine that slows down slows all of them.
"""

import logging
import multiprocessing
import os
import signal
import textwrap
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import torch

from src.benchmark.config import BenchmarkConfig
from src.benchmark.stopwatch import Finished, Repeat, Stopwatch
from src.errors import UserError

log = logging.getLogger(__name__)

Setting = Mapping[str, Any]


@dataclass(frozen=True)
class Job:
    """What variants work on."""

    config: BenchmarkConfig  # names the files that all variants share (``inputs``)
    device: torch.device
    precision: str
    folder: Path  # to write into
    logs: Path  # what a variant and its libraries print goes to a file here


@dataclass(frozen=True)
class Variant:
    """One thing to measure.

    ``work(job, stopwatch, **setting)`` begins, then laps until the stopwatch raises Finished.
    """

    name: str
    work: Callable[..., None]
    settings: tuple[Setting, ...] = ({},)  # of several, the fastest is measured
    first_that_runs: bool = False  # of several settings not the fastest, but the first that runs
    num_warmup_laps: int = 1
    needs: str | None = None  # a package of an optional extra
    extra: str = "peers"


@dataclass
class Measured:
    """A variant's repeats, in the order of the rounds, and every setting that was tried."""

    setting: Setting
    tried: list[dict[str, Any]] = field(default_factory=list)
    repeats: list[Repeat] = field(default_factory=list)

    @property
    def speeds(self) -> list[float]:
        """Tokens or rows a second, by round."""
        return [repeat.per_second for repeat in self.repeats]

    @property
    def per_second(self) -> float:
        """The median of the speeds."""
        return median(self.speeds)

    @property
    def seconds_per_lap(self) -> list[float]:
        """The time of a step, by round."""
        return [repeat.seconds / repeat.num_laps for repeat in self.repeats]


class Failed(Exception):
    """A variant's process ended with an error; the message is one line."""


def take_turns(part: str, variants: list[Variant], job: Job) -> dict[str, Measured]:
    """Return what was measured, by variant, of those that the config asks for.

    One that cannot run or fails is left out, with a warning. ``part`` names logs and folders.
    """
    variants = [variant for variant in variants if job.config.has(variant.name)]
    measured = {v.name: found for v in variants if (found := _choose_setting(part, v, job))}
    for number in range(1, job.config.repeats + 1):
        for variant in [variant for variant in variants if variant.name in measured]:
            setting = measured[variant.name].setting
            repeat = _turn(part, variant, setting, job, f"{number}/{job.config.repeats}")
            if repeat is None:
                del measured[variant.name]
            else:
                measured[variant.name].repeats.append(repeat)
    return measured


def _choose_setting(part: str, variant: Variant, job: Job) -> Measured | None:
    """Return the variant's best setting, without repeats; None if it cannot run."""
    if variant.needs and not find_spec(variant.needs):
        install = f"pip install 'gpt2-chat[{variant.extra}]'"
        reason = f"{variant.needs} is not installed ({install})"
        log.warning("warning: %s %s left out: %s", part, variant.name, reason)
        return None
    if len(variant.settings) == 1:
        return Measured(variant.settings[0])
    speeds: list[float | None] = []  # None: it failed
    for setting in variant.settings:
        repeat = _turn(part, variant, setting, job, "trying")
        speeds.append(repeat.per_second if repeat else None)
        if repeat and variant.first_that_runs:
            break
    if not any(speeds):
        return None
    best = max(range(len(speeds)), key=lambda index: speeds[index] or 0.0)
    tried = [{**variant.settings[i], "per_second": speed} for i, speed in enumerate(speeds)]
    return Measured(variant.settings[best], tried)


def _turn(part: str, variant: Variant, setting: Setting, job: Job, number: str) -> Repeat | None:
    shown = " ".join(f"{key}={value}" for key, value in setting.items())
    job = replace(job, folder=job.folder / f"{part}_{variant.name}")
    try:
        repeat = take_turn(variant, setting, job)
    except Failed as failure:
        log.warning("warning: %s left out: %s  %s", part, failure, shown)
        return None
    speed = f"{repeat.per_second:,.0f}"
    log.info("%-9s %-7s %-18s %12s/s  %s", part, number, variant.name, speed, shown)
    return repeat


def take_turn(variant: Variant, setting: Setting, job: Job) -> Repeat:
    """Return one repeat, of a process that starts and ends with it.

    Raises UserError if the variant says what a person can mend, Failed if it ends otherwise.
    """
    job.logs.mkdir(parents=True, exist_ok=True)
    output = job.logs / f"{job.folder.name}.log"
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(sender, output, variant, setting, job))
    process.start()
    sender.close()  # the process alone holds it now: its death ends the wait
    try:
        answer = receiver.recv()
    except EOFError:
        raise Failed(f"{variant.name} was killed (out of memory?); see {output}") from None
    except BaseException:  # Ctrl-C and SIGTERM end the turn at once
        process.kill()
        raise
    finally:
        receiver.close()
        process.join()
    if isinstance(answer, UserError):
        raise answer
    if isinstance(answer, str):
        raise Failed(textwrap.shorten(f"{variant.name}: {answer}", 300))
    return answer


def _work(sender: Connection, output: Path, variant: Variant, setting: Setting, job: Job) -> None:
    """Send the repeat, or the person's mistake, or what went wrong in one line."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this one
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    try:
        sender.send(work_here(variant, setting, job))
    except UserError as error:
        sender.send(error)
    except Exception as error:
        traceback.print_exc()
        sender.send(f"{type(error).__name__}: {error}")


def work_here(variant: Variant, setting: Setting, job: Job) -> Repeat:
    """Do the variant's work in this process until the stopwatch has enough."""
    torch.manual_seed(job.config.seed)
    job.folder.mkdir(parents=True, exist_ok=True)
    stopwatch = Stopwatch(job.device, job.config.seconds, variant.num_warmup_laps)
    try:
        variant.work(job, stopwatch, **setting)
    except Finished as finished:
        return finished.repeat
    raise RuntimeError("it stopped before the stopwatch had enough")
