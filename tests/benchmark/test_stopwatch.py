"""What is timed: whole steps, warm-up left out."""

from types import SimpleNamespace

import pytest
import torch

from src.benchmark.stopwatch import Finished, Repeat, Stopwatch

CPU = torch.device("cpu")


class Clock:
    """Stands still but for what it is told."""

    def __init__(self):
        self.now = 50.0

    def perf_counter(self) -> float:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch) -> Clock:
    """The clock of the stopwatch, which no other program delays."""
    clock = Clock()
    time = SimpleNamespace(perf_counter=clock.perf_counter)
    monkeypatch.setattr("src.benchmark.stopwatch.time", time)
    return clock


def laps(stopwatch: Stopwatch, clock: Clock, seconds: list[float]) -> Repeat:
    """Do steps of 10 tokens that take so long; return what was timed."""
    durations = iter(seconds)

    def step() -> int:
        clock.pass_by(next(durations))
        return 10

    with pytest.raises(Finished) as finished:
        stopwatch.time(step)
    return finished.value.repeat


def test_a_repeat_is_whole_steps_without_the_warmup(clock):
    repeat = laps(Stopwatch(CPU, 0.75, 1), clock, [4.0, *[0.5] * 4])
    assert (repeat.num_laps, repeat.amount) == (2, 20)
    assert repeat.seconds == 1.0
    assert repeat.per_second == 20.0


def test_without_a_warmup_the_first_step_counts(clock):
    assert laps(Stopwatch(CPU, 0.0, 0), clock, [0.5, 0.5]).seconds == 0.5


def test_what_happens_before_the_beginning_is_not_counted(clock):
    stopwatch = Stopwatch(CPU, 0.0, 0)
    clock.pass_by(2.0)
    assert laps(stopwatch, clock, [0.25]).seconds == 0.25


def test_amounts_may_be_tensors_and_may_be_asked_for():
    """As many as are enough: laps go on, however long they took."""
    stopwatch = Stopwatch(CPU, 0.0, 0, min_amount=7)
    amounts = iter([torch.tensor(3), torch.tensor(3), torch.tensor(3), torch.tensor(3)])
    with pytest.raises(Finished) as finished:
        stopwatch.time(lambda: next(amounts))
    assert (finished.value.repeat.amount, finished.value.repeat.num_laps) == (9, 3)
