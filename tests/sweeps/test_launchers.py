"""Jobs side by side share a machine."""

import importlib.util
import signal
import subprocess
import sys

import pytest
from hydra import compose, initialize_config_dir

from src.command.overrides import CONF
from src.errors import UserError
from src.free_cores import num_cores
from src.sweeps import launchers
from src.sweeps.launchers import (
    hand_on,
    is_in_worker,
    needed,
    side_by_side,
    threads_of_a_job,
)
from src.train import process_arguments


def hydra_config(*overrides: str):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", overrides=list(overrides), return_hydra_config=True).hydra


def test_the_seeds_are_swept():
    assert hydra_config("sweep=seeds").sweeper.params == {"seed": "1, 2, 3, 4, 5"}
    assert hydra_config("sweep=seeds").mode.name == "MULTIRUN"


def test_alone_a_job_has_the_machine():
    config = hydra_config()
    assert (side_by_side(config), threads_of_a_job(config)) == (1, None)


@pytest.mark.parametrize(
    ("overrides", "number"),
    [
        (["hydra/launcher=joblib", "hydra.launcher.n_jobs=3"], 3),
        (["hydra/launcher=joblib"], num_cores()),
        (["sweep=optuna", "hydra/launcher=joblib", "hydra.launcher.n_jobs=3"], 3),
        (["sweep=optuna", "hydra/launcher=joblib", "hydra.sweeper.n_jobs=1"], 1),
        (["sweep=optuna", "hydra/launcher=submitit_slurm"], 1),
        (["hydra/launcher=submitit_slurm"], None),
        (["sweep=optuna", "hydra/launcher=submitit_slurm", "hydra.sweeper.n_jobs=4"], 4),
        (["hydra/launcher=submitit_local", "hydra.sweeper.max_batch_size=2"], 2),
    ],
)
def test_jobs_side_by_side(overrides, number):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="needs the extra sweep")
    assert side_by_side(hydra_config(*overrides)) == number


@pytest.mark.parametrize(
    ("overrides", "threads"),
    [
        (["hydra.launcher.cpus_per_task=3"], 3),
        (["hydra.sweeper.max_batch_size=2"], 4),
        ([], 1),  # all at once, however many
        (["sweep=optuna", "hydra.sweeper.n_jobs=4"], 2),
        (["sweep=optuna"], 8),  # one after another
    ],
)
def test_submitits_local_jobs_share_the_cores(overrides, threads, monkeypatch):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="needs the extra sweep")
    monkeypatch.setattr(launchers, "num_cores", lambda: 8)
    config = hydra_config("hydra/launcher=submitit_local", *overrides)
    assert threads_of_a_job(config) == threads


@pytest.mark.parametrize(
    "argument",
    ["sweep=optuna", "hydra/launcher=joblib", "hydra/launcher=submitit_slurm"],
)
def test_what_is_not_installed_names_its_extra(argument, monkeypatch):
    assert needed([argument])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError) as mistake:
        process_arguments([argument])
    assert str(mistake.value).startswith(f"{argument} needs ")
    assert str(mistake.value).endswith("pip install 'gpt2-chat[sweep]'")


def test_a_signal_is_given_to_joblibs_processes_and_to_no_others():
    assert not hand_on(signal.SIGINT)
    code = "import sys, time; print(flush=True); time.sleep(600)"
    start = [sys.executable, "-c", code]
    with (
        subprocess.Popen([*start, "popen_loky_posix"], stdout=subprocess.PIPE) as worker,
        subprocess.Popen(start, stdout=subprocess.PIPE) as other,
    ):
        for process in (worker, other):
            process.stdout.readline()
        assert hand_on(signal.SIGTERM)
        assert worker.wait(60) == -signal.SIGTERM
        assert other.poll() is None
        other.kill()


def test_this_process_is_none_of_joblibs(monkeypatch):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="needs the extra sweep")
    config = hydra_config("hydra/launcher=joblib")
    assert not is_in_worker(config)
    monkeypatch.setattr("multiprocessing.parent_process", lambda: "another")
    assert is_in_worker(config)
    assert not is_in_worker(hydra_config())
