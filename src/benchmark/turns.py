"""Variants take turns, each turn in a process of its own.

Of a variant's settings the fastest is the one that takes its turns.
"""

import importlib.util
import logging
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
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

SECONDS_TO_END = 5.0


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
    num_warmup_laps: int = 1
    needs: str | None = None  # a package of an optional extra
    needs_gpu: bool = False


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


class Failed(Exception):
    """A variant's process ended with an error; the message is one line."""


def take_turns(part: str, variants: list[Variant], job: Job) -> dict[str, Measured]:
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


def take_turn(variant: Variant, setting: Setting, job: Job) -> Repeat:
    """Start a process, return one repeat, and end the process.

    Raises:
        UserError: the variant says what a person can mend.
        Failed: its process ended otherwise.
    """
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe(duplex=False)
    # No daemon: it may need processes of its own, which load its batches.
    process = context.Process(target=_work, args=(variant, setting, job, theirs))
    process.start()
    theirs.close()  # so that its end is noticed
    try:
        answer = pipe.recv()
        process.join(SECONDS_TO_END)
    except EOFError:
        process.join()
        killed = process.exitcode == -signal.SIGKILL
        end = "was killed (out of memory?)" if killed else f"ended with {process.exitcode}"
        raise Failed(f"{variant.name} {end}; see {_log(job)}") from None
    finally:
        process.kill()  # Lightning would take SIGTERM for a reason to finish its step
        process.join()
        pipe.close()
    if isinstance(answer, Exception):
        raise answer
    return answer


def _log(job: Job) -> Path:
    return job.logs / f"{job.folder.name}.log"


def _work(variant: Variant, setting: Setting, job: Job, answers: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this one
    job.logs.mkdir(parents=True, exist_ok=True)
    output = os.open(_log(job), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    try:
        answers.send(work_here(variant, setting, job))
    except UserError as error:
        answers.send(error)
    except torch.OutOfMemoryError:
        answers.send(Failed(f"{variant.name} ran out of memory on {job.device}"))
    except Exception as error:
        traceback.print_exc()
        message = " ".join(str(error).split())
        answers.send(Failed(f"{variant.name}: {type(error).__name__}: {message}"))


def work_here(variant: Variant, setting: Setting, job: Job) -> Repeat:
    """Do the variant's work in this process until the stopwatch has enough."""
    torch.manual_seed(job.config.seed)
    job.folder.mkdir(parents=True, exist_ok=True)
    stopwatch = Stopwatch(job.device, job.config.seconds, variant.num_warmup_laps)
    try:
        variant.work(job, stopwatch, **setting)
    except Finished:
        return stopwatch.repeat
    raise RuntimeError("it stopped before the stopwatch had enough")
