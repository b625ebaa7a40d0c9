"""Variants take turns, with their fastest setting; what cannot run is left out and named."""

import logging
import math
from dataclasses import replace

import pytest

from src.benchmark import rounds
from src.benchmark.rounds import measure
from src.benchmark.stopwatch import Repeat
from src.benchmark.workers import LONG_LAP, Failed, Variant


class FakeWorker:
    """Does no work; its speed is its setting's."""

    calls: list[str] = []  # noqa: RUF012
    patience: list[float] = []  # noqa: RUF012
    long_lap = 20.0

    def __init__(self, variant, job, log):
        self.variant, self.job = variant, job
        self.asked = 0

    def repeat(self, seconds):
        self.asked += 1
        self.patience.append(self.long_lap)
        self.calls.append(self.variant.name)
        speed = self.job.setting.get("speed", 1)
        if speed == "broken":
            raise Failed("it broke")
        return Repeat(1.0, speed, 1, 10 * self.asked)

    def close(self):
        self.calls.append(f"{self.variant.name} closed")


@pytest.fixture
def calls(monkeypatch) -> list[str]:
    FakeWorker.calls.clear()
    monkeypatch.setattr(rounds, "Worker", FakeWorker)
    return FakeWorker.calls


def variant(name, *speeds, **more):
    return Variant(name, print, tuple({"speed": speed} for speed in speeds), **more)


@pytest.fixture
def run(job):
    def measured(*variants, keep_alive=True):
        own = replace(job, setting={})
        return measure("train", list(variants), own, num_rounds=3, seconds=0, keep_alive=keep_alive)

    return measured


def test_variants_take_turns(run, calls):
    run(variant("a", 1), variant("b", 1), variant("c", 1))
    assert calls[:9] == ["a", "b", "c"] * 3


def test_processes_end_between_turns_if_they_are_not_kept_alive(run, calls):
    run(variant("a", 1), variant("b", 1), keep_alive=False)
    assert calls[:4] == ["a", "a closed", "b", "b closed"]


def test_the_first_repeat_follows_a_whole_step_however_long_that_is(run, calls):
    FakeWorker.patience.clear()
    run(variant("a", 1), keep_alive=False)
    assert FakeWorker.patience == [math.inf, LONG_LAP, LONG_LAP]


def test_the_fastest_setting_is_measured_and_all_are_reported(run, calls):
    measured = run(variant("a", 3, 9, 5))["a"]
    assert measured.setting == {"speed": 9}
    assert [tried["per_second"] for tried in measured.tried] == [3, 9, 5]
    assert measured.per_second == 9
    assert len(measured.repeats) == 3  # what was tried is no repeat


def test_a_setting_that_fails_is_reported_and_another_one_measured(run, calls):
    measured = run(variant("a", "broken", 2))["a"]
    assert measured.setting == {"speed": 2}
    assert measured.tried[0]["failed"] == "it broke"


def test_a_variant_that_fails_or_is_not_installed_is_left_out_and_named(run, calls, caplog):
    with caplog.at_level(logging.WARNING):
        measured = run(variant("a", 1), variant("b", "broken"), variant("c", 1, needs="nowhere"))
    assert set(measured) == {"a"}
    assert "it broke" in caplog.text
    assert "pip install 'gpt2-chat[peers]'" in caplog.text


def test_processes_that_wait_end_when_memory_is_short(run, calls, monkeypatch):
    free = iter([100, 100, 5, *[100] * 9])  # beside workers of 10 bytes and more
    monkeypatch.setattr(rounds, "free_memory_bytes", lambda device: next(free))
    run(variant("a", 1), variant("b", 1))
    assert calls[:6] == ["a", "b", "a", "a closed", "b closed", "b"]


def test_settings_are_tried_one_process_at_a_time(run, calls):
    run(variant("a", 3, 9), keep_alive=False)
    assert calls[:4] == ["a", "a closed", "a", "a closed"]
