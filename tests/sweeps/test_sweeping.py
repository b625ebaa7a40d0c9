"""A sweep shows its runs, survives their failures, ends with a ranking, and goes on."""

import csv
import gc
import json
import shutil
import signal
import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from src import signals
from src.command.cli import Stopped
from src.model.gpt2 import GPT2
from src.sweeps.job import run_job
from src.training.log import TrainingLog
from src.training.status import StatusFile
from tests.sweeps.conftest import LR, only_sweep, status_of


def rows_of(folder):
    with (folder / "results.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def models() -> int:
    """Return how many models are in memory, those of other tests included."""
    gc.collect()
    return sum(isinstance(thing, GPT2) for thing in gc.get_objects())


@pytest.mark.slow
def test_a_sweep_ends_with_its_result_and_goes_on_after_a_kill(sweep, tmp_path):
    before = models()
    code, out, err = sweep(f"{LR}=1e-3,2e-3", "batch_size=4,0")
    folder = only_sweep(tmp_path)
    assert code == 2, err
    runs = {path.name for path in folder.iterdir() if path.is_dir()}
    assert runs == {"lr1e-3_bs4", "lr1e-3_bs0", "lr2e-3_bs4", "lr2e-3_bs0"}

    # One line a run meanwhile, and a failure at once; no report, no table of replies.
    assert "4 runs in outputs/train/" in err
    assert "lr1e-3_bs0 failed: batch_size=0: must be at least 1" in err
    assert "tokens taught" not in err + out
    assert "talk to it:" not in err + out
    log = (folder / "lr1e-3_bs4" / "train.log").read_text(encoding="utf-8")
    assert "talk to it:" in log
    refused = folder / "lr2e-3_bs0"
    assert "error: batch_size=0" in (refused / "train.log").read_text(encoding="utf-8")
    assert status_of(refused)["state"] == "failed"
    assert "batch_size=0" in status_of(refused)["reason"]

    # The result on standard output.
    assert "sweep of optimizer.learning_rate (lr) and batch_size (bs): 4 runs, 2 finished" in out
    assert "talk to the best:" in out
    rows = rows_of(folder)
    assert [row["rank"] for row in rows] == ["1", "2", "", ""]
    assert [row["status"] for row in rows] == ["finished"] * 2 + ["failed"] * 2
    losses = {
        path.parent.name: json.loads(path.read_text())["best_val/loss"]
        for path in folder.glob("*/metrics.json")
    }
    assert rows[0]["folder"] == min(losses, key=losses.get)
    assert f"model_path=outputs/train/{folder.name}/{rows[0]['folder']}/model" in out
    assert float(rows[0]["best_val/loss"]) == min(losses.values())
    assert int(rows[0]["num_tokens"]) > 0
    assert (folder / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert not (folder / "run.lock").exists()

    # Nothing of a run is left in the process for the next one.
    assert models() <= before

    # Killed: one run within training, one before it began.
    killed, missing = folder / "lr1e-3_bs4", folder / "lr2e-3_bs4"
    (killed / "metrics.json").unlink()
    values = status_of(killed) | {"state": "running", "exit_code": None}
    (killed / "status.json").write_text(json.dumps(values))
    shutil.rmtree(missing)
    shutil.rmtree(folder / "lr1e-3_bs0")
    (folder / "results.csv").unlink()
    code, out, err = sweep(f"resume={folder}", values=())
    assert code == 2, err
    assert err.count("failed: batch_size=0: must be at least 1") == 2  # one of them anew
    again = {
        path.parent.name: json.loads(path.read_text())["best_val/loss"]
        for path in folder.glob("*/metrics.json")
    }
    assert again == losses
    assert [row["status"] for row in rows_of(folder)] == ["finished"] * 2 + ["failed"] * 2
    record = json.loads((missing / "run.json").read_text())
    assert record["config"]["optimizer"]["learning_rate"] == 0.002
    assert f"{LR}=0.002" in record["overrides"]
    assert len(list((tmp_path / "outputs" / "train").iterdir())) == 1

    # All has ended: auto finds nothing to go on with, and nobody else's values are taken.
    code, _, err = sweep("resume=auto", values=())
    assert (code, "no unfinished sweep" in err) == (2, True)
    code, _, err = sweep(f"resume={folder}", "seed=7", values=())
    assert (code, "seed is part of what the runs are" in err) == (2, True)


def test_a_bug_in_one_run_stops_nothing_and_its_traceback_is_in_its_log(
    sweep, tmp_path, monkeypatch
):
    def fail(config, *_):
        if config.seed == 1:
            raise ZeroDivisionError("of our own")
        return original(config, *_)

    from src.training import start

    original = start.build_model
    monkeypatch.setattr(start, "build_model", fail)
    code, out, err = sweep("seed=1,2")
    folder = only_sweep(tmp_path)
    assert code == 1
    assert "seed1 failed: ZeroDivisionError: of our own" in err
    assert "seed1 failed: ZeroDivisionError: of our own" in out
    assert "Traceback" not in err + out
    log = (folder / "seed1" / "train.log").read_text(encoding="utf-8")
    assert "Traceback" in log
    assert "build_model" in log
    assert status_of(folder / "seed2")["state"] == "finished"


def test_a_signal_ends_the_run_and_says_how_the_sweep_goes_on(sweep, tmp_path, monkeypatch):
    original = TrainingLog.on_train_batch_end

    def interrupted(self, trainer, *args):
        original(self, trainer, *args)
        if trainer.global_step == 1 and "seed2" in str(trainer.logger.log_dir):
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(TrainingLog, "on_train_batch_end", interrupted)
    code, out, err = sweep("seed=1,2,3")
    folder = only_sweep(tmp_path)
    assert (code, out) == (143, "")
    resume = f"python -m src.train -m resume=outputs/train/{folder.name}"
    assert err.splitlines()[-1] == f"2 of 3 runs remain; go on with: {resume}"
    assert status_of(folder / "seed2")["state"] == "stopped"
    assert not (folder / "seed3").exists()

    monkeypatch.setattr(TrainingLog, "on_train_batch_end", original)
    first = (folder / "seed1" / "train.log").read_bytes()
    code, out, err = sweep("resume=auto", values=())
    assert code == 0, err
    assert "3 runs, 3 finished" in out
    assert "over seeds:" in out
    assert (folder / "seed1" / "train.log").read_bytes() == first

    code, out, err = sweep(f"resume={folder}", values=())
    assert (code, "is finished" in err) == (0, True)
    assert "3 runs, 3 finished" in out


def test_settings_that_refer_to_nothing_are_a_mistake_and_no_bug(tmp_path):
    def job():
        return OmegaConf.create({"batch_size": "${micro}"}).batch_size

    assert run_job(job, tmp_path, tmp_path / "train.log", []) is None
    assert status_of(tmp_path)["exit_code"] == 2
    assert status_of(tmp_path)["reason"].startswith("batch_size: ${micro} names no key")
    assert "Traceback" not in (tmp_path / "train.log").read_text(encoding="utf-8")


def test_a_run_in_a_process_of_joblibs_ends_without_ending_the_others(tmp_path, monkeypatch):
    """It returns: what it raised would have joblib kill the processes of all others."""
    monkeypatch.setattr(signals, "remembers", lambda: True)
    begun = []

    def stopped():
        begun.append(True)
        StatusFile(tmp_path).write(state="stopped", reason="SIGINT")
        monkeypatch.setattr(signals, "received", lambda: signal.SIGINT)
        raise Stopped(signal.SIGINT)

    for _ in range(2):  # the second, which was waiting, does not begin
        assert run_job(stopped, tmp_path, tmp_path / "train.log", []) is None
    assert begun == [True]
    monkeypatch.setattr(signals, "remembers", lambda: False)
    with pytest.raises(Stopped):
        run_job(stopped, tmp_path, tmp_path / "train.log", [])


def test_what_hydra_refuses_leaves_nothing(sweep, tmp_path):
    code, out, err = sweep("model=tiny,nosuch")
    assert (code, out) == (2, "")
    assert "there is no preset model=nosuch" in err
    assert not list((tmp_path / "outputs").rglob("sweep.json"))


def test_a_sweep_belongs_to_one_process(sweep, tmp_path):
    from src.sweeps.state import Job, Sweep, write_sweep

    folder = tmp_path / "mine"
    folder.mkdir()
    write_sweep(folder, Sweep(num_jobs=1, jobs=(Job("seed1", {"seed": 1}),)))
    code = (
        "from pathlib import Path; from src.training import lock; import sys;"
        f"print(lock.hold(Path({str(folder)!r})), flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"True\n"
        done = sweep(f"resume={folder}", values=())
        assert (done[0], "another process is at this sweep" in done[2]) == (2, True)
        code, _, err = sweep("resume=auto", values=())
        assert (code, "no unfinished sweep" in err) == (2, True)
        other.communicate(b"")
    code, _, err = sweep("seed=1,2", f"hydra.sweep.dir={folder}")
    assert (code, "holds a sweep already" in err) == (2, True)


@pytest.mark.parametrize(
    ("multirun", "files", "message"),
    [
        (["-m"], ["run.json"], "is one run: leave out -m"),
        (["-m"], ["multirun.yaml"], "of an older version"),
        (["-m"], [], "not a sweep's folder"),
        ([], ["sweep.json"], "is a sweep: add -m (python -m src.train -m resume="),
    ],
    ids=["run", "older", "none", "without -m"],
)
def test_what_cannot_go_on_is_said_in_one_line(multirun, files, message, door, tmp_path):
    from src import train

    folder = tmp_path / "there"
    folder.mkdir()
    for name in files:
        (folder / name).write_text("{}")
    code, out, err = door(
        train.train,
        "train",
        *multirun,
        f"resume={folder}",
        rewrite=train.process_arguments,
        around=train.around,
    )
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1
