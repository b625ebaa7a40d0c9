from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from src.benchmark.config import BenchmarkConfig
from src.benchmark.inputs import write_inputs
from src.benchmark.stopwatch import Repeat
from src.benchmark.turns import Job, Variant, work_here
from src.command.cli import CONF, typed

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


@pytest.fixture(scope="session")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Tiny rows and weights, which all variants can be given."""
    folder = tmp_path_factory.mktemp("benchmark")
    config = benchmark_config(*TINY)
    shared = write_inputs(folder / "inputs", config, config.model, config.num_rows)
    return Job(shared, torch.device("cpu"), "32-true", folder / "work", folder / "logs")


@pytest.fixture
def repeat(job: Job, tmp_path: Path) -> Callable[..., Repeat]:
    """Give a variant a turn of one step in this process."""

    def measure(variant: Variant, setting=None) -> Repeat:
        own = replace(job, folder=tmp_path / variant.name)
        return work_here(variant, variant.settings[0] if setting is None else setting, own)

    return measure
