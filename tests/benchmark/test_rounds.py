"""Variants take turns, with their fastest setting; what cannot run is left out and named."""

import logging
from dataclasses import replace

import pytest

from src.benchmark import rounds
from src.benchmark.rounds import measure
from src.benchmark.stopwatch import Repeat
from src.benchmark.turns import Failed, Variant


@pytest.fixture
def turns(monkeypatch) -> list[str]:
    """The names of those who had a turn; a turn does no work, its speed is its setting's."""
    names: list[str] = []

    def take_turn(variant, setting, job):
        names.append(variant.name)
        if setting["speed"] == "broken":
            raise Failed("it broke")
        return Repeat(1.0, setting["speed"], 1, 10)

    monkeypatch.setattr(rounds, "take_turn", take_turn)
    return names


def variant(name, *speeds, **more):
    return Variant(name, print, tuple({"speed": speed} for speed in speeds), **more)


@pytest.fixture
def run(job):
    own = replace(job, config=replace(job.config, repeats=3))
    return lambda *variants: measure("train", list(variants), own)


def test_variants_take_turns(run, turns):
    run(variant("a", 1), variant("b", 1), variant("c", 1))
    assert turns == ["a", "b", "c"] * 3


def test_the_fastest_setting_is_measured_and_all_are_reported(run, turns):
    measured = run(variant("a", 3, 9, 5))["a"]
    assert measured.setting == {"speed": 9}
    assert [tried["per_second"] for tried in measured.tried] == [3, 9, 5]
    assert measured.per_second == 9
    assert len(measured.repeats) == 3  # what was tried is no repeat
    assert turns == ["a"] * 6


def test_a_setting_that_fails_is_reported_and_another_one_measured(run, turns):
    measured = run(variant("a", "broken", 2))["a"]
    assert measured.setting == {"speed": 2}
    assert measured.tried[0]["failed"] == "it broke"


def test_a_variant_that_cannot_run_or_fails_is_left_out_and_named(run, turns, caplog):
    with caplog.at_level(logging.WARNING):
        measured = run(
            variant("a", 1),
            variant("b", "broken"),
            variant("c", "broken", "broken"),
            variant("d", 1, needs="nowhere"),
            variant("e", 1, needs_gpu=True),
        )
    assert set(measured) == {"a"}
    assert turns == ["c", "c", "a", "b", "a", "a"]
    assert "it broke" in caplog.text
    assert "d left out: nowhere is not installed (pip install 'gpt2-chat[peers]')" in caplog.text
    assert "e left out: needs a GPU" in caplog.text


def test_only_those_that_are_asked_for_take_turns(job, turns):
    own = replace(job, config=replace(job.config, repeats=1, variants=["b"]))
    assert set(measure("train", [variant("a", 1), variant("b", 1)], own)) == {"b"}
    assert turns == ["b"]
