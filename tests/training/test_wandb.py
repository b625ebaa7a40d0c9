"""``logger=wandb``: beside TensorBoard, without a network; one line where it is not installed."""

import sys

import pytest

from src.errors import UserError
from src.training.curves import read_history
from src.training.wandb_logger import _identity
from tests.training.conftest import curves


def test_without_the_library_one_line_names_the_extra(small_run, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(
        UserError, match=r"logger=wandb needs the wandb library.*gpt2-chat\[wandb\]"
    ):
        small_run("logger=wandb")
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_run_is_the_same_run_when_it_goes_on(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text("{}")
    one, two = (_identity(tmp_path / name) for name in ("one", "two"))
    assert one == _identity(tmp_path / "one")
    assert one.split("-")[-1] != two.split("-")[-1]
    strange = tmp_path / "a b,c=é"
    strange.mkdir()
    (strange / "run.json").write_text("{}")
    assert _identity(strange).startswith("a-b-c")


def test_offline_a_run_is_written_beside_tensorboard(small_run, monkeypatch):
    wandb = pytest.importorskip(
        "wandb", reason="wandb is not installed: pip install gpt2-chat[wandb]"
    )
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logged = []
    original = wandb.Run.log
    monkeypatch.setattr(
        wandb.Run, "log", lambda self, data, *a, **k: logged.append(data) or original(self, data)
    )
    run = small_run("logger=wandb")
    assert list((run / "wandb").glob("offline-run-*/run-*.wandb"))
    points = {d["trainer/global_step"]: d["val/loss"] for d in logged if "val/loss" in d}
    assert points == pytest.approx(curves(run)["val/loss"])
    assert {"sample_replies", "settings", "val/loss_by_position"} <= {
        key for d in logged for key in d
    }
    assert len(read_history(run / "history.csv")) == 13
