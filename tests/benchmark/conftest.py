import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from src.benchmark.config import BenchmarkConfig
from src.benchmark.inputs import write_inputs
from src.benchmark.stopwatch import Repeat
from src.benchmark.workers import Job, Variant, run
from src.cli import CONF, typed

# 200 short rows, a model of two layers: each variant takes a second.
TINY = (
    "num_rows=200",
    "data.max_rows=300",
    "data.block_size=64",
    "model.n_layer=2",
    "model.n_embd=32",
    "model.n_head=2",
    "model.n_positions=64",
    "model.vocab_size=400",
    "tiny.n_layer=1",
    "tiny.vocab_size=300",
    "generation.max_new_tokens=6",
    "trainer.precision=32-true",
    "trainer.accelerator=cpu",
    "batch_size=4",
    "repeats=2",
    "seconds=0",
)


def benchmark_config(*overrides: str) -> BenchmarkConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return typed(BenchmarkConfig, compose("benchmark", overrides=list(overrides)))


def train_config(config: BenchmarkConfig):
    from src.benchmark.benchmark import training_values

    return training_values(config, torch.device("cpu"))


@pytest.fixture(scope="session")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Tiny rows and weights, which all variants can be given."""
    folder = tmp_path_factory.mktemp("benchmark")
    config = benchmark_config(*TINY)
    shared = write_inputs(folder / "inputs", train_config(config), config.model, config.num_rows)
    return Job(shared, {}, torch.device("cpu"), "32-true", folder / "work")


@pytest.fixture
def repeats(job: Job, tmp_path: Path) -> Callable[..., list[Repeat]]:
    """Run a variant in this process for so many repeats of one step each."""

    def measure(variant: Variant, num_repeats: int = 2, **setting) -> list[Repeat]:
        ours, theirs = multiprocessing.Pipe()
        for message in (*[0.0] * num_repeats, None):
            ours.send(message)
        own = replace(job, setting=setting or variant.settings[0], folder=tmp_path / variant.name)
        run(variant, own, theirs)
        received = []
        while ours.poll():
            received.append(ours.recv())
        for answer in received:
            if isinstance(answer, Exception):
                raise answer
        return received

    return measure
