"""Beside a program that keeps a core busy: ours, which leaves it the core, and fixed threads."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch

from src.benchmark.config import BenchmarkConfig
from src.benchmark.generate import decode_ours
from src.benchmark.inputs import write_inputs
from src.benchmark.ours import train_ours
from src.benchmark.part import Figures, Part
from src.benchmark.stopwatch import Stopwatch
from src.benchmark.turns import Job, Variant, take_turns
from src.checks import AUTO
from src.free_cores import allowed_cores, num_cores
from src.shared_cores import shared_cores, threads_in_torch

TRAIN, DECODE, DECODE_INT8 = "train", "decode", "decode_int8"
WORKS = (TRAIN, DECODE, DECODE_INT8)
THREADS = (AUTO, "all", "one")  # all: a thread for each core, whatever else is there
WARMUP_STEPS = 50  # of the tiny model: until the load has been seen
BESIDE = "_beside"


class Cores(Part):
    """Tokens a second, alone and beside a busy core."""

    name = "cores"
    speed = "tokens_per_second"
    ratios = tuple(
        (f"{work}_auto{where}", f"{work}_{other}{where}")
        for work in WORKS
        for where, others in (("", ("all",)), (BESIDE, ("one", "all")))
        for other in others
    )
    in_all = False

    def variants(self, device: torch.device) -> list[Variant]:
        works: dict[str, Callable[..., None]] = {
            TRAIN: train_beside,
            DECODE: decode_beside,
            DECODE_INT8: partial(decode_beside, weights="int8"),
        }
        return [
            Variant(
                f"{work}_{threads}{where}",
                partial(works[work], threads=threads, is_beside=bool(where)),
                num_warmup_laps=WARMUP_STEPS if work == TRAIN else 1,
            )
            for work in WORKS
            for where in ("", BESIDE)
            for threads in THREADS
            if device.type == "cpu"
        ]

    def measure(self, config: BenchmarkConfig, job: Job) -> Figures:
        variants = self.variants(job.device)
        learning = [variant for variant in variants if variant.name.startswith(TRAIN)]
        others = [variant for variant in variants if variant not in learning]
        data = replace(config.data, block_size=config.tiny.n_positions)
        config = replace(config, data=data)
        tiny = write_inputs(job.folder / "tiny", config, config.tiny, config.num_rows)
        measured = take_turns(self.name, learning, replace(job, config=tiny))
        return self.figures(measured | take_turns(self.name, others, job))


@contextmanager
def busy_core(is_busy: bool) -> Iterator[None]:
    """Keep the last core busy meanwhile with another program, which does not move."""
    if not is_busy:
        yield
        return
    pin = f"os.sched_setaffinity(0, {{{max(allowed_cores())}}})\n"
    pin = pin if hasattr(os, "sched_setaffinity") else ""
    loop = f"import os\n{pin}while os.getppid() == {os.getpid()}: pass"  # however this one ends
    with subprocess.Popen([sys.executable, "-c", loop]) as program:
        try:
            yield
        finally:
            program.kill()


def train_beside(job: Job, stopwatch: Stopwatch, threads: str, is_beside: bool) -> None:
    """Our training of a tiny model, as a person starts it."""
    numbers: dict[str, int | str] = {AUTO: AUTO, "all": num_cores(), "one": 1}
    number = numbers[threads]
    trainer = replace(job.config.trainer, threads=number)
    job = replace(job, config=replace(job.config, trainer=trainer))
    with busy_core(is_beside):
        train_ours(job, stopwatch, follows=threads == AUTO)


def decode_beside(
    job: Job, stopwatch: Stopwatch, threads: str, is_beside: bool, weights: str = "fp32"
) -> None:
    """Our decoding of one answer at a time, as the doors do it."""
    fixed = num_cores() if threads == "all" else 1
    with (
        busy_core(is_beside),
        shared_cores(AUTO, "cpu") if threads == AUTO else threads_in_torch(fixed),
    ):
        decode_ours(job, stopwatch, weights=weights)
