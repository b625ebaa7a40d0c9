"""``experiment=smoke``: a configuration from its first row to its last file, in a minute."""

import logging
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from src.training.checkpoint_file import AtomicCheckpointIO
from src.training.checkpoints import saved_step
from src.training.start import start_run
from tests.conftest import SHARED_DATA
from tests.training.conftest import metrics, settings, train_config

ROOT = Path(__file__).parents[2]
TINY = ("model.n_layer=1", "model.n_embd=32", "model.n_head=2", "model.vocab_size=300")


@pytest.mark.parametrize("own", [(), ("data.packing=false", "exact_match=true")])
def test_every_phase_happens_once_and_little_is_computed(own, tmp_path, monkeypatch, caplog):
    saves = []
    original = AtomicCheckpointIO.save_checkpoint

    def save(self, checkpoint, path, **options):
        saves.append(checkpoint["global_step"])
        original(self, checkpoint, path, **options)

    monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", save)
    keep = "trainer.keep_optimizer=true"
    asked = ("experiment=smoke", "data=sample", "model=tiny", *TINY, *own, keep)
    with caplog.at_level(logging.INFO):
        config = settings(*asked, f"data.corpus_dir={tmp_path / 'corpora'}")
        assert start_run(*config, tmp_path / "run", list(asked)) is None
    figures = metrics(tmp_path / "run")
    num_steps = figures["num_steps"]
    assert 2 <= num_steps <= 5
    assert saves == [num_steps]
    assert saved_step(tmp_path / "run" / "checkpoints" / "last.ckpt") == num_steps
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()
    phases = {"data", "model", "training", "validation", "replies", "saving", "test"}
    assert {f"seconds/{phase}" for phase in phases} <= figures.keys()
    assert figures["val/num_rows"] <= 8 >= figures["test/num_rows"]
    assert ("exact_match" in figures) == ("exact_match=true" in own)
    assert f"training: step {num_steps}/{num_steps}" in caplog.text


@pytest.mark.parametrize(
    "other", [("model=gpt2-xl", "hardware=h100"), ("batch_size=256",), ("data.block_size=512",)]
)
def test_it_leaves_a_configuration_what_it_is(other):
    plain, smoke = train_config(*other), train_config(*other, "experiment=smoke")
    assert smoke.model == plain.model
    assert smoke.optimizer == plain.optimizer
    assert smoke.trainer.precision == plain.trainer.precision
    assert smoke.batch_size == plain.batch_size
    assert smoke.micro_batch_size == plain.micro_batch_size
    assert smoke.data.block_size == plain.data.block_size


def test_it_tries_an_experiment_too():
    smoke = train_config("experiment=[article_a100,smoke]")
    article = train_config("experiment=article_a100")
    assert smoke.data.packing is article.data.packing is False
    assert smoke.optimizer == article.optimizer
    assert smoke.max_steps < 10 < article.max_steps


@pytest.mark.whole
def test_gpt2s_shape_on_real_rows_takes_two_cores_less_than_a_minute(tmp_path):
    """In seconds of a core, for this machine may be busy."""
    rows, tokenizer = SHARED_DATA / "alpaca.jsonl.gz", SHARED_DATA / "gpt2-tokenizer"
    if not rows.exists():
        pytest.skip(f"{rows} is not here: this test needs the real data")
    own = (f"data.path={rows}", f"model.tokenizer={tokenizer}", "model.pretrained=null")
    places = (f"data.corpus_dir={tmp_path / 'corpora'}", f"hydra.run.dir={tmp_path / 'run'}")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "src.train", "experiment=smoke", "data=file", *own, *places],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},  # threads that wait for each other take seconds
        check=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = sum(getattr(after, n) - getattr(before, n) for n in ("ru_utime", "ru_stime"))
    assert seconds < 2 * 60 * 0.75
    assert metrics(tmp_path / "run")["num_parameters"] == 124_439_808
