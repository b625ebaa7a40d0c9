"""The phases of a run sum to its wall time, whatever is inside what."""

import time

import pytest

from src import phases


@pytest.fixture(autouse=True)
def clock():
    phases.begin()
    yield
    phases.begin()


def test_a_phase_within_another_counts_for_itself_alone():
    outer = time.perf_counter()
    phases.begin()
    start = time.perf_counter()
    with phases.phase("training"):
        time.sleep(0.02)
        with phases.phase("saving"):
            time.sleep(0.05)
        time.sleep(0.02)
    least = time.perf_counter() - start
    passed = phases.seconds()
    most = time.perf_counter() - outer
    assert passed["saving"] >= 0.05
    assert 0.04 <= passed["training"] < most - 0.05
    assert least <= sum(passed.values()) <= most


def test_an_error_ends_its_phases():

    def fail():
        with phases.phase("data"):
            phases.enter("validation")  # which nobody leaves
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    before = phases.seconds()["validation"]
    time.sleep(0.01)
    assert phases.seconds()["validation"] == before
    assert phases.seconds()["other"] >= 0.01


def test_a_run_that_goes_on_counts_what_has_passed():
    start = time.perf_counter()
    phases.add({"training": 100.0, "saving": 7.0})
    with phases.phase("training"):
        time.sleep(0.01)
    passed = phases.seconds()
    assert 100.01 <= passed["training"] <= 100 + time.perf_counter() - start
    assert passed["saving"] == 7.0


def test_each_run_of_a_process_has_a_clock_of_its_own():
    with phases.phase("starting"):  # the door's, before the run
        time.sleep(0.01)
    phases.take()
    assert phases.seconds()["starting"] >= 0.01
    phases.take()  # of a second run, which no door has begun
    assert "starting" not in phases.seconds()


@pytest.mark.parametrize(
    ("passed", "text"),
    [
        (
            {"data": 2.0, "training": 40.0, "exact_match": 12.5, "other": 0.0},
            "54 s: training 40 s, exact match 12 s, data 2.0 s",
        ),
        (
            {"training": 3600.0, "data": 5.0, "test": 30.0, "other": 12.0},
            "61 min: training 60 min, other 47 s",
        ),
    ],
)
def test_the_longest_is_told_first_and_the_small_together(passed, text):
    assert phases.in_words(passed) == text
