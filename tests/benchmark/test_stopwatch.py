"""What is timed: whole steps, warm-up left out."""

import time

import pytest
import torch

from src.benchmark.stopwatch import Finished, Repeat, Stopwatch

CPU = torch.device("cpu")


def laps(stopwatch: Stopwatch, seconds: list[float]) -> Repeat:
    """Do steps of 10 tokens that take so long; return what was timed."""
    durations = iter(seconds)

    def step() -> int:
        time.sleep(next(durations))
        return 10

    with pytest.raises(Finished) as finished:
        stopwatch.time(step)
    return finished.value.repeat


def test_a_repeat_is_whole_steps_without_the_warmup():
    repeat = laps(Stopwatch(CPU, 0.1, 1), [0.4, *[0.06] * 4])
    assert (repeat.num_laps, repeat.amount) == (2, 20)
    assert 0.12 <= repeat.seconds < 0.3
    assert repeat.per_second == repeat.amount / repeat.seconds


def test_without_a_warmup_the_first_step_counts():
    assert laps(Stopwatch(CPU, 0.0, 0), [0.1, 0.1]).seconds >= 0.1


def test_what_happens_before_the_beginning_is_not_counted():
    stopwatch = Stopwatch(CPU, 0.0, 0)
    time.sleep(0.2)
    assert laps(stopwatch, [0.0]).seconds < 0.1


def test_amounts_may_be_tensors_and_may_be_asked_for():
    """As many as are enough: laps go on, however long they took."""
    stopwatch = Stopwatch(CPU, 0.0, 0, min_amount=7)
    amounts = iter([torch.tensor(3), torch.tensor(3), torch.tensor(3), torch.tensor(3)])
    with pytest.raises(Finished) as finished:
        stopwatch.time(lambda: next(amounts))
    assert (finished.value.repeat.amount, finished.value.repeat.num_laps) == (9, 3)
