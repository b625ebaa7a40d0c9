"""What is timed: whole steps, between two signals, warm-up left out."""

import multiprocessing
import time

import pytest
import torch

from src.benchmark.stopwatch import Finished, Repeat, Stopwatch

CPU = torch.device("cpu")


@pytest.fixture
def pipe():
    return multiprocessing.Pipe()


def laps(stopwatch: Stopwatch, seconds: list[float]) -> None:
    """Do steps of 10 tokens that take so long; the first that finds no repeat to come raises."""
    stopwatch.begin()
    for duration in seconds:
        time.sleep(duration)
        stopwatch.lap(10)


def test_a_repeat_is_whole_steps_without_the_warmup(pipe):
    ours, theirs = pipe
    for message in (0.1, 0.1, None):
        ours.send(message)
    with pytest.raises(Finished):
        laps(Stopwatch(theirs, CPU, 1, float("inf")), [0.4, *[0.06] * 4])
    first, second = ours.recv(), ours.recv()
    assert isinstance(first, Repeat)
    for repeat in (first, second):
        assert (repeat.num_laps, repeat.amount) == (2, 20)
        assert 0.12 <= repeat.seconds < 0.3
        assert repeat.per_second == repeat.amount / repeat.seconds
    assert not ours.poll()


def test_a_long_first_step_counts_as_the_first_repeat(pipe):
    ours, theirs = pipe
    for message in (0.0, 0.0, None):
        ours.send(message)
    with pytest.raises(Finished):
        laps(Stopwatch(theirs, CPU, 1, 0.05), [0.1, 0.01])
    assert ours.recv().seconds >= 0.1
    assert ours.recv().seconds < 0.1


def test_time_spent_waiting_for_the_turn_is_not_counted(pipe):
    ours, theirs = pipe
    ours.send(0.0)
    stopwatch = Stopwatch(theirs, CPU, 0, float("inf"))
    stopwatch.begin()
    ours.send(0.0)
    stopwatch.lap(torch.tensor(3))
    repeat = ours.recv()
    assert repeat.amount == 3
    assert repeat.seconds < 0.1


def test_a_worker_whose_parent_is_gone_ends(pipe):
    ours, theirs = pipe
    ours.close()
    with pytest.raises(Finished):
        Stopwatch(theirs, CPU, 0, float("inf")).begin()
