"""A run computes with the threads that it began with, whatever else keeps the cores busy."""

import json
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from src import shared_cores
from src.data import order
from src.errors import UserError
from src.free_cores import Load, allowed_cores, num_cores
from src.shared_cores import MOST_SLEEPERS, can_move
from src.training import machine, run
from src.training.checkpoints import Checkpoints
from src.training.place import Place
from src.training.record import read_machine, read_record
from tests.training.conftest import train_config
from tests.training.test_resume import Killed, assert_same_run, kill_at

TWO = pytest.mark.skipif(
    not 2 <= len(allowed_cores()) <= MOST_SLEEPERS or not can_move(),
    reason="needs some cores, Linux and GNU's OpenMP",
)
LAYOUT = ("trainer.checkpoint_every_n_steps=3", "model.n_embd=64", "model.dropout=0.1")
# All are busy but the last, so that two threads must share it, however many cores there are.
BUSY = sorted(allowed_cores())[:-1]
ONE_FREE = Load(own=0.0, by_core=dict.fromkeys(BUSY, 1.0), room=1.0)


def text_of(caplog) -> str:
    return "\n".join(record.getMessage() for record in caplog.records)


@pytest.fixture
def threads_seen(monkeypatch) -> list[int]:
    """The threads of each micro-batch."""
    seen: list[int] = []
    original = Checkpoints.on_train_batch_end

    def hook(self, trainer: L.Trainer, *args):
        seen.append(torch.get_num_threads())
        original(self, trainer, *args)

    monkeypatch.setattr(Checkpoints, "on_train_batch_end", hook)
    return seen


@TWO
def test_a_resumed_run_keeps_its_threads_and_its_bits(quick_run, monkeypatch, threads_seen, caplog):
    caplog.set_level("INFO")
    whole = quick_run(*LAYOUT, "trainer.threads=2", folder="whole")
    assert read_machine(whole)["threads"] == 2
    assert read_record(whole).settings["threads"] == 2
    assert f"cores      {num_cores()}, " in text_of(caplog)
    assert "free now: 2 threads" in text_of(caplog)
    monkeypatch.setattr(run, "load_now", lambda: ONE_FREE)  # from here on
    monkeypatch.setattr(shared_cores, "PERIOD", 1000.0)
    with monkeypatch.context() as patch:
        kill_at(patch, 8, "on_train_batch_end")
        with pytest.raises(Killed):
            quick_run(*LAYOUT, "trainer.threads=2", folder="killed")
    threads_seen.clear()
    assert torch.get_num_threads() == 1  # of this process: a new run would take as many
    caplog.clear()
    resumed = quick_run(*LAYOUT, "resume=auto", folder="killed")
    assert set(threads_seen) == {2}
    assert f"other programs keep {len(BUSY)} of" in text_of(caplog)
    assert torch.get_num_threads() == 1
    assert_same_run(resumed, whole)


@TWO
def test_another_number_of_threads_is_taken_on_request_and_said(quick_run, monkeypatch, caplog):
    with monkeypatch.context() as patch:
        kill_at(patch, 8, "on_train_batch_end")
        with pytest.raises(Killed):
            quick_run(*LAYOUT, "trainer.threads=2")
    resumed = quick_run(*LAYOUT, "resume=auto", "trainer.threads=1")
    assert "that run had threads=2; 1 rounds otherwise" in text_of(caplog)
    assert read_machine(resumed)["threads"] == 2  # as it began


def rewrite(record: Path, threads: Any) -> None:
    content = json.loads(record.read_text())
    content["settings"].pop("threads", None)
    content["machine"].pop("threads")
    content["machine"] |= {} if threads is None else {"threads": threads}
    record.write_text(json.dumps(content))


def test_a_run_of_an_older_version_goes_on_with_the_threads_of_torch(
    quick_run, tmp_path, monkeypatch, threads_seen
):
    with monkeypatch.context() as patch:
        kill_at(patch, 8, "on_train_batch_end")
        with pytest.raises(Killed):
            quick_run(*LAYOUT)
    record = tmp_path / "run" / "run.json"
    rewrite(record, "two")
    with pytest.raises(UserError, match=r"machine\.threads='two'"):
        read_machine(tmp_path / "run")
    rewrite(record, None)
    threads_seen.clear()
    quick_run(*LAYOUT, "resume=auto")
    assert set(threads_seen) == {1}


@pytest.mark.parametrize(
    ("overrides", "place", "free", "threads"),
    [
        ((), Place(), 4, 4),
        ((), Place(), 3, 3),
        ((), Place(), 2, 4),  # two rounds on two
        (("data.num_workers=1",), Place(), 4, 3),
        ((), Place(world_size=2, local_size=2), 1, 2),  # the ranks share the cores
        (("trainer.threads=7",), Place(), 1, 7),  # who knows better
    ],
)
def test_threads_are_decided_from_the_free_cores(monkeypatch, overrides, place, free, threads):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(machine, "can_move", lambda: True)
    monkeypatch.setattr(shared_cores, "num_cores", lambda: 4)
    monkeypatch.setattr(shared_cores, "spare_cores", lambda processes: 4 // processes - 1)
    config = train_config(*overrides)
    assert machine.decide_threads(config, place, "cpu", free) == threads


@pytest.mark.parametrize("value", ["0", "-1", "1025", "100000", "many"])
def test_a_wrong_number_of_threads_is_one_line(value):
    with pytest.raises(UserError, match=r"trainer\.threads=.*must be in \[1, 1024\], or auto"):
        train_config(f"trainer.threads={value}")


def test_workers_never_exceed_the_cores(quick_run, monkeypatch, caplog):
    monkeypatch.setattr(order, "spare_cores", lambda processes: 1)
    caplog.set_level("INFO")
    loaders = []
    original = order.DataLoader

    def loader(*args, **options):
        loaders.append(options["num_workers"])
        return original(*args, **options)

    monkeypatch.setattr(order, "DataLoader", loader)
    quick_run(*LAYOUT, "data.num_workers=4", "max_steps=2")
    assert max(loaders) == 1
    assert "1 worker of 4 asked for" in text_of(caplog)
