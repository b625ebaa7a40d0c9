"""Processes of their own: their memory, their mistakes."""

import multiprocessing
import os
import signal
from dataclasses import replace

import pytest
import torch

from src.benchmark.stopwatch import Repeat, Stopwatch
from src.benchmark.turns import Failed, Job, Variant, take_turn
from src.errors import UserError


def answer(job: Job, stopwatch: Stopwatch, *, do: str) -> None:
    print("printed by a library")
    stopwatch.begin()
    match do:
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
        case "stop":
            return
    while True:
        stopwatch.lap(7)


@pytest.fixture
def turn(job, tmp_path):
    own = replace(job, folder=tmp_path / "answer", logs=tmp_path / "logs")
    return lambda do: take_turn(Variant("answer", answer), {"do": do}, own)


def test_a_turn_has_its_own_memory_and_log(turn, tmp_path, capfd):
    ballast = torch.ones(250_000_000)  # 1 GB of this process, not of the variant's
    repeat = turn("lap")
    assert isinstance(repeat, Repeat)
    assert (repeat.amount, repeat.num_laps) == (7, 1)
    assert 0 < repeat.peak_memory_bytes < ballast.nbytes
    assert not multiprocessing.active_children()
    assert "printed by a library" in (tmp_path / "logs" / "answer.log").read_text()
    assert "printed" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("do", "error", "message"),
    [
        ("die", Failed, "answer was killed"),
        ("err", Failed, "answer: KeyError"),
        ("refuse", UserError, "lower the batch"),
        ("stop", Failed, "it stopped before the stopwatch had enough"),
    ],
)
def test_what_ends_a_turn_early_is_said_in_one_line(turn, do, error, message):
    with pytest.raises(error, match=message) as caught:
        turn(do)
    assert "\n" not in str(caught.value)
    assert not multiprocessing.active_children()


def test_a_turn_may_start_processes_of_its_own(turn):
    """As a loader does with data.num_workers."""
    assert turn("fork").amount == 7
