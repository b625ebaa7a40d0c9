"""Variants take turns with their fastest setting, each turn in a process of its own.

What cannot run, and what ends a process, is said in one line.
"""

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

from src.benchmark import turns
from src.benchmark.stopwatch import Repeat, Stopwatch
from src.benchmark.turns import Failed, Job, Variant, take_turn, take_turns
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


@pytest.mark.whole
def test_a_turn_has_its_own_memory_and_log(turn, tmp_path, capfd):
    ballast = torch.ones(250_000_000)  # 1 GB of this process, not of the variant's
    repeat = turn("lap")
    assert isinstance(repeat, Repeat)
    assert (repeat.amount, repeat.num_laps) == (7, 1)
    assert 0 < repeat.peak_memory_bytes < ballast.nbytes
    assert not multiprocessing.active_children()
    assert "printed by a library" in (tmp_path / "logs" / "answer.log").read_text()
    assert "printed" not in "".join(capfd.readouterr())


@pytest.mark.whole
@pytest.mark.parametrize(
    ("do", "error", "message"),
    [
        ("die", Failed, "answer was killed"),
        ("err", Failed, "answer: KeyError: 'a bug'"),
        ("refuse", UserError, "lower the batch"),
        ("stop", Failed, "it stopped before the stopwatch had enough"),
    ],
)
def test_what_ends_a_turn_early_is_said_in_one_line(turn, do, error, message):
    with pytest.raises(error, match=message) as caught:
        turn(do)
    assert "\n" not in str(caught.value)
    assert not multiprocessing.active_children()


@pytest.mark.whole
def test_a_turn_may_start_processes_of_its_own(turn):
    """As a loader does with data.num_workers."""
    assert turn("fork").amount == 7


@pytest.fixture
def taken(monkeypatch) -> list[str]:
    """The names of those who had a turn; a turn does no work, its speed is its setting's."""
    names: list[str] = []

    def take_turn(variant, setting, job):
        names.append(variant.name)
        if setting["speed"] == "broken":
            raise Failed("it broke")
        return Repeat(1.0, setting["speed"], 1, 10)

    monkeypatch.setattr(turns, "take_turn", take_turn)
    return names


def variant(name, *speeds, **more):
    return Variant(name, print, tuple({"speed": speed} for speed in speeds), **more)


@pytest.fixture
def run(job):
    own = replace(job, config=replace(job.config, repeats=3))
    return lambda *variants: take_turns("train", list(variants), own)


def test_variants_take_turns(run, taken):
    run(variant("a", 1), variant("b", 1), variant("c", 1))
    assert taken == ["a", "b", "c"] * 3


def test_the_fastest_setting_is_measured_and_all_are_reported(run, taken):
    measured = run(variant("a", 3, 9, 5))["a"]
    assert measured.setting == {"speed": 9}
    assert [tried["per_second"] for tried in measured.tried] == [3, 9, 5]
    assert measured.per_second == 9
    assert len(measured.repeats) == 3  # what was tried is no repeat
    assert taken == ["a"] * 6


def test_a_setting_that_fails_is_reported_and_another_one_measured(run, taken):
    measured = run(variant("a", "broken", 2))["a"]
    assert measured.setting == {"speed": 2}
    assert measured.tried[0]["per_second"] is None


def test_a_smaller_micro_batch_is_tried_only_when_a_greater_one_fails(run, taken):
    measured = run(variant("a", "broken", 2, 9, first_that_runs=True))["a"]
    assert (measured.setting, taken) == ({"speed": 2}, ["a"] * 5)


def test_a_variant_that_cannot_run_or_fails_is_left_out_and_named(run, taken, caplog):
    with caplog.at_level(logging.WARNING):
        measured = run(
            variant("a", 1),
            variant("b", "broken"),
            variant("c", "broken", "broken"),
            variant("d", 1, needs="nowhere"),
        )
    assert set(measured) == {"a"}
    assert taken == ["c", "c", "a", "b", "a", "a"]
    assert "it broke" in caplog.text
    assert "d left out: nowhere is not installed (pip install 'gpt2-chat[peers]')" in caplog.text


def test_only_those_that_are_asked_for_take_turns(job, taken):
    own = replace(job, config=replace(job.config, repeats=1, variants=["b"]))
    assert set(take_turns("train", [variant("a", 1), variant("b", 1)], own)) == {"b"}
    assert taken == ["b"]


@pytest.mark.whole
def test_a_stop_ends_the_turn_and_the_run(tmp_path):
    """``timeout`` and a terminal send the signal to the whole group, so to the turn's too."""
    command = [sys.executable, "-m", "src.benchmark", "what=train", "variants=[article_as_written]"]
    values = ["num_rows=300", "trainer.accelerator=cpu", f"hydra.run.dir={tmp_path / 'run'}"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    with subprocess.Popen(
        [*command, *values],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=environment,
    ) as process:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("run/logs/*")) and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(1)
        os.killpg(process.pid, signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM, errors
    assert "stopped" in errors
