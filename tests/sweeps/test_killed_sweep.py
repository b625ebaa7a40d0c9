"""A sweep that SIGKILL ends half-way goes on, and its result is that of one that was not killed."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from src.training.checkpoints import saved_step
from tests.sweeps.conftest import BS, LR, TINY, status_of
from tests.training.conftest import metrics

ROOT = Path(__file__).parents[2]


def start(folder: Path, *arguments: str, **options: bool) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "src.train", "-m", *arguments],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=(folder / "stderr").open("w"),
        **options,
    )


@pytest.mark.whole
@pytest.mark.timeout(1200)
def test_nine_runs_one_of_them_failing_killed_half_way_and_gone_on_with(tmp_path):
    given = [*TINY, f"{LR}=1e-3,2e-3,4e-3", "batch_size=4,0,8", "max_steps=4"]
    given += [f"data.corpus_dir={tmp_path / 'corpora'}"]
    folder, whole = tmp_path / "killed", tmp_path / "whole"
    process = start(tmp_path, *given, f"hydra.sweep.dir={folder}")
    # Within the training of the third run: batch_size, which TINY has as well, changes last.
    third = folder / "lr4e-3_bs4"
    while process.poll() is None:
        if (third / "status.json").exists() and status_of(third)["step"] >= 1:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert status_of(third)["state"] == "running"
    assert not (folder / "lr1e-3_bs8").exists()
    logs = {
        name: (folder / name / "train.log").read_bytes() for name in ("lr1e-3_bs4", "lr2e-3_bs4")
    }

    process = start(tmp_path, f"resume={folder}")
    out, _ = process.communicate()
    assert process.returncode == 2
    assert "9 runs, 6 finished, 3 failed" in out
    assert logs == {name: (folder / name / "train.log").read_bytes() for name in logs}

    process = start(tmp_path, *given, f"hydra.sweep.dir={whole}")
    process.communicate()
    assert process.returncode == 2
    with (folder / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["rank"] for row in rows] == [*"123456", "", "", ""]
    losses = [float(row["best_val/loss"]) for row in rows[:6]]
    assert losses == sorted(losses)
    for row in rows[:6]:
        name = f"lr{float(row[LR]) * 1e3:.0f}e-3_bs{row[BS]}"
        assert row["folder"] == name
        assert float(row["best_val/loss"]) == metrics(whole / name)["best_val/loss"]
        assert float(row["best_val/loss"]) == metrics(folder / name)["best_val/loss"]
    assert {row["reason"] for row in rows[6:]} == {"batch_size=0: must be at least 1"}
    assert (folder / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert f"model_path={folder / rows[0]['folder']}/model" in out


@pytest.mark.whole
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("to_all", [True, False], ids=["terminal", "kill"])
def test_ctrl_c_ends_runs_side_by_side_in_good_order_and_they_go_on(to_all, tmp_path):
    """A terminal gives the signal to all processes, ``kill`` to the first."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="needs the extra sweep")
    folder = tmp_path / "sweep"
    two = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    given = [*TINY, "seed=1,2,3", "max_steps=1000000", "trainer.val_every_n_steps=1000000"]
    given += [f"data.corpus_dir={tmp_path / 'corpora'}", f"hydra.sweep.dir={folder}"]
    process = start(tmp_path, *given, *two, start_new_session=True)
    names = ("seed1", "seed2")
    while process.poll() is None:
        found = [folder / name for name in names if (folder / name / "status.json").exists()]
        if len(found) == 2 and all(status_of(run)["step"] for run in found):
            break
        time.sleep(0.1)
    (os.killpg if to_all else os.kill)(process.pid, signal.SIGINT)
    out, _ = process.communicate()
    said = (tmp_path / "stderr").read_text()
    assert (process.returncode, out) == (130, ""), said
    command = f"python -m src.train -m resume={folder}"
    assert said.splitlines()[-1] == f"3 of 3 runs remain; go on with: {command}"
    assert "Traceback" not in said
    for name in names:
        status = status_of(folder / name)
        assert (status["state"], status["reason"]) == ("stopped", "SIGINT")
        assert saved_step(folder / name / "checkpoints" / "last.ckpt") == status["step"]
    assert not (folder / "seed3" / "run.json").exists()
