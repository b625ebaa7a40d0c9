import contextlib
import copy
import functools
import json
import secrets
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from src import phases
from src.command.cli import CONF
from src.train import read_settings
from src.training.config import TrainConfig
from src.training.events import events_folder
from src.training.objective import Objective

CORPORA = "data.corpus_dir="
# A run of seconds: 120 short rows, a one-layer model.
SMALL = (
    "experiment=quickstart",
    "data.max_rows=120",
    "data.block_size=64",
    "model.n_layer=1",
    "model.n_embd=32",
    "model.n_head=2",
    "model.vocab_size=300",
    "generation.max_new_tokens=4",
    "exact_match=false",
    "batch_size=8",
    "micro_batch_size=8",
    "max_steps=12",
    "optimizer.warmup_steps=2",
    "trainer.val_every_n_steps=5",
    "trainer.log_every_n_steps=1",
    "trainer.keep_optimizer=true",
    "trainer.max_val_blocks=null",  # all of them: what a test plants in a row is met
)


def settings(*overrides: str) -> tuple[TrainConfig, type[Objective]]:
    """Read the settings that Hydra composes; what the folders of a test are called comes after."""
    given = [o for o in overrides if not o.startswith(CORPORA)]
    config, objective = copy.deepcopy(_settings(tuple(given)))
    for override in overrides:
        if override.startswith(CORPORA):
            config.data.corpus_dir = override.removeprefix(CORPORA)
    return config, objective


@functools.cache  # a fifth of a second each
def _settings(overrides: tuple[str, ...]) -> tuple[TrainConfig, type[Objective]]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return read_settings(compose("train", overrides=list(overrides)))


def train_config(*overrides: str) -> TrainConfig:
    return settings(*overrides)[0]


@pytest.fixture
def small_run(tmp_path: Path) -> Callable[..., Path]:
    """Train a small model in a folder and return the folder."""
    from src.training.start import start_run

    def run(*overrides: str, folder: str = "run") -> Path:
        path = tmp_path / folder
        path.mkdir(exist_ok=True)
        given = [*SMALL, f"{CORPORA}{tmp_path / 'corpora'}", *overrides]
        phases.begin()  # or a door that refused its command line has left a clock to this run
        (path / "signal").write_text(str(start_run(*settings(*given), path, given)))
        return path

    return run


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Train a small model once for all tests that only look at it, or copy it."""
    from src.training.start import start_run

    root, runs = tmp_path_factory.mktemp("trained"), {}

    def run(*overrides: str) -> Path:
        if overrides not in runs:
            folder = root / str(len(runs))
            given = [*SMALL, f"{CORPORA}{root / 'corpora'}", *overrides]
            phases.begin()  # as in ``small_run``
            start_run(*settings(*given), folder, given)
            runs[overrides] = folder
        return runs[overrides]

    return run


@pytest.fixture
def finished_run(trained: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Leave what ``small_run`` leaves, a copy of a run that was trained once for all tests."""

    def copy_of(*overrides: str, folder: str = "run") -> Path:
        return shutil.copytree(trained(*overrides), tmp_path / folder)

    return copy_of


@pytest.fixture
def quick_run(small_run: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Train as ``small_run`` does, on a file of few rows: reading them takes no time."""
    rows = tmp_path / "rows.jsonl"
    lines = [
        {"prompt": f"What is {i} + {i}?", "response": f"{i} + {i} is {2 * i}."} for i in range(90)
    ]
    rows.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    fractions = ("data.validation_fraction=0.1", "data.test_fraction=0.1")
    own = ("data=file", f"data.path={rows}", *fractions, "data.block_size=64")

    def run(*overrides: str, folder: str = "run") -> Path:
        return small_run(*own, *overrides, folder=folder)

    return run


@pytest.fixture
def port() -> int:
    """A port that nobody listens on.

    The system gives none of these to a program that asks for any (Linux: from 32768 on), which
    might have it before the process that is told of it. A seeded generator would give the same
    one to tests that run side by side.
    """
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as listening, contextlib.suppress(OSError):
            listening.bind(("", port))
            return port


def metrics(run_folder: Path) -> dict[str, float]:
    return json.loads((run_folder / "metrics.json").read_text())


def curves(run_folder: Path) -> dict[str, dict[int, float]]:
    """Each TensorBoard scalar as {step: value}."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(events_folder(run_folder)))
    events.Reload()
    return {
        tag: {event.step: event.value for event in events.Scalars(tag)}
        for tag in events.Tags()["scalars"]
    }
