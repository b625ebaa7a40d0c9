"""Processes of their own: their memory, their mistakes."""

import multiprocessing
import os
import signal
from dataclasses import replace

import pytest
import torch

from src.benchmark.stopwatch import Stopwatch
from src.benchmark.workers import Failed, Job, Variant, Worker
from src.errors import UserError


def answer(job: Job, stopwatch: Stopwatch) -> None:
    print("printed by a library")
    stopwatch.begin()
    while True:
        match job.setting["do"]:
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "err":
                raise KeyError("a bug")
            case "fork":
                child = multiprocessing.Process(target=print)
                child.start()
                child.join()
            case "refuse":
                raise UserError("lower the batch")
            case "wait":
                stopwatch.lap(int(stopwatch.long_lap))
        stopwatch.lap(7)


@pytest.fixture
def worker(job, tmp_path):
    made = []

    def make(do: str) -> Worker:
        own = replace(job, setting={"do": do}, folder=tmp_path / do)
        made.append(Worker(Variant("answer", answer), own, tmp_path / f"{do}.log"))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_a_worker_answers_again_and_again_and_after_a_fresh_start(worker, tmp_path, capfd):
    ballast = torch.ones(250_000_000)  # 1 GB of this process, not of the worker
    lap = worker("lap")
    first = lap.repeat(0.0)
    assert first.amount == 7 * first.num_laps
    assert lap.repeat(0.0).amount >= 7
    assert 0 < first.peak_memory_bytes < ballast.nbytes
    process = lap.process
    lap.close()
    assert process.exitcode == 0
    assert "printed by a library" in (tmp_path / "lap.log").read_text()
    assert "printed" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("do", "error", "message"),
    [
        ("die", Failed, "answer was killed"),
        ("err", Failed, "answer: KeyError"),
        ("refuse", UserError, "lower the batch"),
    ],
)
def test_what_ends_a_worker_is_said_in_one_line(worker, do, error, message):
    with pytest.raises(error, match=message) as caught:
        worker(do).repeat(0.0)
    assert "\n" not in str(caught.value)


def test_a_worker_is_told_which_step_is_long(worker):
    wait = worker("wait")
    wait.variant = replace(wait.variant, num_warmup_laps=0)
    wait.long_lap = 5.0
    assert wait.repeat(0.0).amount == 5


def test_a_worker_may_start_processes_of_its_own(worker):
    """As a loader does with data.num_workers."""
    assert worker("fork").repeat(0.0).amount == 7
