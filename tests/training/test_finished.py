"""A finished run drops its checkpoints, unless it is to keep them; last of all."""

import json
import logging
import os

import pytest

from src.errors import UserError
from src.training import finished, lock
from src.training.checkpoints import resolve_checkpoint
from src.training.resume import resumed_arguments
from tests.training.conftest import metrics
from tests.training.test_resume import LAYOUT, Killed

DROPPING = (*LAYOUT, "trainer.keep_optimizer=false", "max_steps=6")


def checkpoints(run):
    return sorted(path.name for path in (run / "checkpoints").iterdir())


@pytest.fixture
def killed(quick_run, monkeypatch, tmp_path):
    """A finished run that was killed before it had dropped its checkpoints."""

    def die(folder):
        assert metrics(folder)["num_steps"] == 6  # whole
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(finished, "drop_checkpoints", die)
        with pytest.raises(Killed):
            quick_run(*DROPPING, folder="killed")
    assert checkpoints(tmp_path / "killed") == ["last.ckpt", "previous.ckpt"]
    return tmp_path / "killed"


def test_the_next_start_drops_what_a_killed_run_left(killed, quick_run, caplog):
    with caplog.at_level(logging.INFO):
        quick_run(*DROPPING, "resume=auto", folder="killed")
    assert "is finished" in caplog.text
    assert checkpoints(killed) == []
    assert (killed / "model" / "model.safetensors").exists()
    (killed / "checkpoints" / "last.ckpt").write_text("left")
    with pytest.raises(SystemExit):  # the door says that it is finished
        resumed_arguments([f"resume={killed}"], killed.parent)
    assert checkpoints(killed) == []
    (killed / "checkpoints" / "last.ckpt").write_text("left")
    with caplog.at_level(logging.INFO):
        other = quick_run(*DROPPING, folder="other")  # beside it
    assert "removed:      the optimizer's state, " in caplog.text
    assert checkpoints(killed) == []
    assert checkpoints(other) == []
    with pytest.raises(UserError, match=r"a finished run drops them.*model_path=.*other/model"):
        resolve_checkpoint(str(other))


def test_only_what_a_finished_run_is_to_drop_is_dropped(tmp_path):
    def run(name, keeps, done=True):
        folder = tmp_path / name
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "checkpoints" / "last.ckpt").write_text("state")
        trainer = {} if keeps is None else {"keep_optimizer": keeps}
        record = {"settings": {}, "machine": {}, "config": {"trainer": trainer}}
        (folder / "run.json").write_text(json.dumps(record))
        if done:
            (folder / "metrics.json").write_text("{}")
        return folder

    keeps, older, going = run("keeps", True), run("older", None), run("going", False, done=False)
    drops, linked = run("drops", False), run("linked", False)
    (linked / "checkpoints" / "last.ckpt").unlink()
    (linked / "checkpoints" / "last.ckpt").symlink_to(keeps / "checkpoints" / "last.ckpt")
    away = run("away", False)
    (away / "checkpoints").rename(tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", away / "checkpoints")
    finished.sweep(finished.siblings(tmp_path / "new"))
    assert checkpoints(drops) == []
    for folder in (keeps, older, going, linked, away):
        assert checkpoints(folder) == ["last.ckpt"], folder
    assert not list(tmp_path.rglob(lock.LOCK))
