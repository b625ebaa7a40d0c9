"""Points are measured one by one; one that would take too long is left out and named."""

import json
import logging
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from src.benchmark import rounds
from src.benchmark.scale import (
    ScaleConfig,
    measure_preparation,
    measure_training,
    show_scale,
    write_rows,
)
from src.benchmark.stopwatch import Repeat
from src.data.sources import open_source
from src.errors import UserError


class TenTokensASecond:
    """A worker whose step is the blocks it was given."""

    def __init__(self, variant, job, log):
        self.job = job

    def repeat(self, seconds):
        tokens = self.job.config.batch_size * self.job.config.data.block_size
        return Repeat(tokens / 10, tokens, 1, 2**30)

    def close(self):
        pass


@pytest.fixture
def scale(monkeypatch):
    monkeypatch.setattr(rounds, "Worker", TenTokensASecond)

    def make(**changes) -> ScaleConfig:
        values = {
            "cpu_models": [],
            "gpu_models": [],
            "block_sizes": [32, 64],
            "batch_sizes": [1, 4],
            "num_rows": [3, 7],
            "seconds": 0.0,
            "max_step_seconds": 20.0,
        }
        return ScaleConfig(**values | changes)

    return make


def test_every_point_has_its_figures_and_a_long_one_is_left_out(scale, job, caplog):
    with caplog.at_level(logging.WARNING):
        figures = measure_training("gpt2", job, scale())
    speeds = {key for key in figures if key.endswith("real_tokens_per_second")}
    points = ("32x1", "32x4", "64x1")
    assert speeds == {f"scale.train.gpt2.{point}.real_tokens_per_second" for point in points}
    assert figures["scale.train.gpt2.32x4.seconds_per_step"] == 12.8
    assert "scale gpt2.64x4 left out" in caplog.text
    console = Console(file=StringIO())
    show_scale(figures | {"train.ours.peak_memory_bytes": 1}, console)
    assert "32 x 4" in console.file.getvalue()
    assert "1.00 GiB" in console.file.getvalue()


def test_a_model_without_memory_for_it_is_left_out_and_named(scale, job, caplog, monkeypatch):
    whole = TenTokensASecond.repeat

    def short_of_memory(worker, seconds):
        if worker.job.config.data.block_size == 64:
            raise UserError("needs 30 GiB")
        return whole(worker, seconds)

    monkeypatch.setattr(TenTokensASecond, "repeat", short_of_memory)
    figures = measure_training("gpt2", job, scale(batch_sizes=[1]))
    assert "scale.train.gpt2.32x1.seconds_per_step" in figures
    assert "scale.train.gpt2.64x1.seconds_per_step" not in figures
    assert "scale gpt2.64x1 left out: needs 30 GiB" in caplog.text


def test_rows_are_as_many_as_were_asked_for_and_differ(job, tmp_path):
    source = open_source(replace(job.config.data, max_rows=5))
    write_rows(tmp_path / "many.jsonl", source, 12)
    rows = [json.loads(line) for line in (tmp_path / "many.jsonl").read_text().splitlines()]
    assert len(rows) == len({row["prompt"] for row in rows}) == 12
    assert len({row["response"] for row in rows}) <= 5


def test_preparation_is_measured_for_each_number_of_rows(scale, job, tmp_path, monkeypatch):
    def count_rows(worker, seconds):
        rows = Path(worker.job.config.data.path).read_text().splitlines()
        return Repeat(1.0, len(rows), 1, 2**20)

    monkeypatch.setattr(TenTokensASecond, "repeat", count_rows)
    own = replace(job, folder=tmp_path / "work")
    figures = measure_preparation(own, open_source(job.config.data), scale())
    assert figures["scale.prepare.3.rows_per_second"] == 3
    assert figures["scale.prepare.7.rows_per_second"] == 7
    assert not list(own.folder.glob("*.jsonl"))
