"""A variant in a process of its own, asked for one repeat at a time."""

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

from src.benchmark.stopwatch import Finished, Repeat, Stopwatch
from src.errors import UserError
from src.training.config import TrainConfig

Setting = Mapping[str, Any]

SECONDS_TO_END = 5.0
LONG_LAP = 20.0  # seconds: against such a step a cold start is little, unless it compiles


@dataclass(frozen=True)
class Job:
    """What a variant works on.

    ``config`` names the files that all variants share (``inputs``); ``setting`` is one of the
    variant's own; ``folder`` is where it may write.
    """

    config: TrainConfig
    setting: Setting
    device: torch.device
    precision: str
    folder: Path


@dataclass(frozen=True)
class Variant:
    """One thing to measure."""

    name: str
    work: Callable[[Job, Stopwatch], None]  # begins, then laps until the stopwatch raises Finished
    settings: tuple[Setting, ...] = ({},)  # of several, the fastest is measured
    needs: str | None = None  # a package of an optional extra
    num_warmup_laps: int = 1


class Failed(Exception):
    """A variant's process ended with an error; the message is one line."""


class Worker:
    """One variant with one setting, in a process that is started when it is first asked."""

    def __init__(self, variant: Variant, job: Job, log: Path):
        self.variant = variant
        self.job = job
        self.log = log
        self.long_lap = LONG_LAP
        self.process: multiprocessing.process.BaseProcess | None = None
        self.pipe: Connection | None = None

    def repeat(self, seconds: float) -> Repeat:
        """Return one repeat of at least ``seconds``.

        Raises:
            UserError: the variant says what a person can mend.
            Failed: its process ended otherwise.
        """
        if self.process is None:
            self._start()
        try:
            self.pipe.send(seconds)
            answer = self.pipe.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self.process.join()
            code = self.process.exitcode
            died = (
                "was killed (out of memory?)" if code == -signal.SIGKILL else f"ended with {code}"
            )
            raise Failed(f"{self.variant.name} {died}; see {self.log}") from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        # No daemon: it may need processes of its own, which load its batches.
        self.process = context.Process(
            target=run_in_process, args=(self.variant, self.job, theirs, self.log, self.long_lap)
        )
        self.process.start()
        theirs.close()  # so that its end is noticed

    def close(self) -> None:
        """Let the process end; if it is in the middle of a long step, stop it."""
        if self.process is None:
            return
        self.pipe.close()
        self.process.join(SECONDS_TO_END)
        self.process.kill()  # Lightning would take SIGTERM for a reason to finish its step
        self.process.join()
        self.process = self.pipe = None


def run_in_process(
    variant: Variant, job: Job, pipe: Connection, log: Path, long_lap: float
) -> None:
    """Do the variant's work; whatever it or its libraries print goes to ``log``."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this one
    log.parent.mkdir(parents=True, exist_ok=True)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    run(variant, job, pipe, long_lap)


def run(variant: Variant, job: Job, pipe: Connection, long_lap: float = LONG_LAP) -> None:
    """Do the variant's work until ``pipe`` says that it is enough; send errors there too."""
    torch.manual_seed(job.config.seed)
    job.folder.mkdir(parents=True, exist_ok=True)
    try:
        compiled = job.device.type != "cpu" or job.config.trainer.compile
        if compiled:
            long_lap = float("inf")
        stopwatch = Stopwatch(pipe, job.device, variant.num_warmup_laps, long_lap)
        variant.work(job, stopwatch)
    except Finished:
        pass
    except UserError as error:
        pipe.send(error)
    except torch.OutOfMemoryError:
        pipe.send(Failed(f"{variant.name} ran out of memory on {job.device}"))
    except Exception as error:
        traceback.print_exc()
        message = " ".join(str(error).split())
        pipe.send(Failed(f"{variant.name}: {type(error).__name__}: {message}"))
