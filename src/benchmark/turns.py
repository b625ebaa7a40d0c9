"""A variant's turn: one stretch of its work, in a process of its own."""

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from src.benchmark.config import BenchmarkConfig
from src.benchmark.stopwatch import Finished, Repeat, Stopwatch
from src.errors import UserError

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


class Failed(Exception):
    """A variant's process ended with an error; the message is one line."""


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
