"""A pipeline of seconds: a model of one layer that has learned nothing, a few prompts and steps."""

import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from filelock import FileLock
from hydra.core.global_hydra import GlobalHydra

from src.command.cli import run_door
from src.data.tokenizer import Tokenizer
from src.rlhf.__main__ import rlhf, with_keys_of_runs
from src.talk.model_folder import save_model_folder
from tests.conftest import greedy
from tests.model.conftest import random_model, tiny_config

ROOT = Path(__file__).parents[2]
SHAPE = {"n_positions": 256, "n_layer": 1, "n_embd": 32, "n_head": 2}


def small(root: Path, *more: str) -> list[str]:
    """The command line of a small pipeline whose corpora are in ``root``."""
    own = [f"start={root / 'start'}", f"run.data.corpus_dir={root / 'corpora'}"]
    return ["pipeline=small", *own, *more]


def run(root: Path, *arguments: str) -> tuple[int, str, str]:
    """Run the door in ``root``; return exit code, standard output and standard error."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(root)
        patch.setattr(sys, "argv", ["rlhf", *arguments])
        GlobalHydra.instance().clear()
        try:
            run_door(rlhf, "rlhf", rewrite=with_keys_of_runs)
        except SystemExit as stop:
            code = stop.code
    return code, out.getvalue(), err.getvalue()


def start(*arguments: str, cwd: Path) -> subprocess.Popen:
    """Start the door in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, "-m", "src.rlhf", *arguments]
    return subprocess.Popen(command, cwd=cwd, env=environment, **pipes)


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory, worker_id: str, tokenizer: Tokenizer) -> Path:
    """A folder with the model that pipelines begin with, and one that is complete."""
    base = tmp_path_factory.getbasetemp()
    root = (base if worker_id == "master" else base.parent) / "rlhf"
    root.mkdir(exist_ok=True)
    with FileLock(root / "made.lock"):
        if not (root / "out.txt").exists():
            model = random_model(tiny_config(vocab_size=tokenizer.vocab_size, **SHAPE))
            save_model_folder(root / "start", model, tokenizer, greedy(8))
            code, out, err = run(root, *small(root, "name=one"))
            assert code == 0, err
            (root / "out.txt").write_text(out, encoding="utf-8")
    return root


@pytest.fixture
def folder(root: Path) -> Path:
    """The folder of a complete pipeline; nobody may change it."""
    return root / "outputs/rlhf/one"


@pytest.fixture
def said(root: Path) -> str:
    """What it printed."""
    return (root / "out.txt").read_text(encoding="utf-8")
