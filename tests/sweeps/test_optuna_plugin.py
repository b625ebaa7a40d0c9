"""Hydra knows the sweeper of a search, also in the processes of its jobs."""

import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton

from src.command.overrides import CONF
from src.sweeps.optuna_plugin import PruningSweeper, register

ROOT = Path(__file__).parents[2]
COMPOSES = f"""
import pickle, sys
from hydra import compose, initialize_config_dir
from hydra.core.singleton import Singleton
Singleton.set_state(pickle.load(sys.stdin.buffer))
with initialize_config_dir({str(CONF)!r}, version_base="1.3"):
    config = compose("train", ["sweep=optuna", "hydra.sweep.dir=x"], return_hydra_config=True)
print(config.hydra.sweeper.n_trials, "optuna" in sys.modules)
"""


def test_hydra_makes_the_sweeper():
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        overrides = ["sweep=optuna", "hydra/sweeper=optuna_pruning", "hydra.sweep.dir=x"]
        config = compose("train", overrides, return_hydra_config=True)
    made = Plugins.instance()._instantiate(config.hydra.sweeper)
    assert isinstance(made, PruningSweeper)
    assert made.settings["n_trials"] == 20


def test_a_job_in_another_process_composes_the_search_and_needs_no_optuna():
    cloudpickle = pytest.importorskip("cloudpickle", reason="needs the extra sweep: with submitit")
    register()
    done = subprocess.run(
        [sys.executable, "-c", COMPOSES],
        input=cloudpickle.dumps(Singleton.get_state()),
        capture_output=True,
        cwd=ROOT,
        check=True,
    )
    assert done.stdout.split() == [b"20", b"False"]
