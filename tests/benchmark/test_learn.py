"""Equal work: the same examples end at the same held-out loss, whoever's loop it is."""

from dataclasses import replace

import pytest
import torch

from src.benchmark import article
from src.benchmark.inputs import open_blocks
from src.benchmark.learn import (
    LEARNT,
    PUPILS,
    Learn,
    equal_settings,
    held_out_loss,
    learning_figures,
    save,
)
from src.benchmark.turns import work_here
from src.model.pretrained import load_pretrained

SAME = ("bare_loop", "huggingface", "huggingface_padded")  # the same examples in each step


@pytest.fixture(scope="module")
def held_out(job):
    return open_blocks(job.config)


@pytest.fixture
def learnt_loss(job, held_out, tmp_path, monkeypatch):
    """Train as a variant on so many tokens; return the loss of its weights."""

    def run(name: str, num_tokens: int) -> float:
        monkeypatch.setattr("src.benchmark.learn.LEARNING_RATE", 1e-2)
        tiny = replace(job.config.tiny, n_positions=64)
        config = replace(equal_settings(replace(job.config, tiny=tiny)), batch_size=4)
        own = replace(job, config=config, folder=tmp_path / name)
        variants = {variant.name: variant for variant in Learn().variants(job.device, num_tokens)}
        seen = work_here(variants[name], variants[name].settings[0], own).amount
        assert num_tokens <= seen < num_tokens + 4 * 64 + 30
        return held_out_loss(own.folder / LEARNT, held_out)

    return run


def test_the_same_examples_teach_the_same(job, held_out, learnt_loss):
    before = held_out_loss(job.config.model.pretrained, held_out)
    losses = {name: learnt_loss(name, 4000) for name in ("ours", *SAME, "huggingface_drawn")}
    assert losses["ours"] < before - 0.5
    for name in SAME:
        assert losses[name] == pytest.approx(losses["ours"], abs=1e-3)
    # Other examples share its steps.
    assert losses["huggingface_drawn"] == pytest.approx(losses["ours"], abs=0.3)
    assert abs(losses["huggingface_drawn"] - losses["ours"]) > 1e-3


def test_the_articles_recipe_takes_the_settings_it_is_given(learnt_loss, job, held_out):
    before = held_out_loss(job.config.model.pretrained, held_out)
    assert learnt_loss("article_packed", 2000) < before - 0.2  # its own 6e-5 would not get there


@pytest.mark.slow
def test_trl_learns_as_ours(learnt_loss):
    pytest.importorskip("trl")
    assert learnt_loss("trl", 4000) == pytest.approx(learnt_loss("ours", 4000), abs=1e-3)


def test_the_articles_weights_are_scored_as_they_are(job, tmp_path):
    model = article.load(job.config.model.pretrained).eval()
    save(model, tmp_path / "learnt")
    again = load_pretrained(str(tmp_path / "learnt"))
    ids = torch.randint(0, 300, (1, 20))
    torch.testing.assert_close(again.logits(again(ids)), model(ids).logits, rtol=1e-4, atol=1e-4)


def test_all_are_taught_the_same_labels_whatever_the_run_says(job):
    """TRL knows no other labels than the completion's."""
    config = replace(job.config, data=replace(job.config.data, supervise="article"))
    assert equal_settings(config).data.supervise == "responses"


def test_figures_compare_seed_by_seed():
    figures = learning_figures({"ours": {7: 2.0, 8: 3.0}, "trl": {8: 2.5}})
    assert figures["learn.ours.held_out_loss"] == 2.5
    assert figures["learn.ours.spread"] == [2.0, 3.0]
    assert figures["learn.trl.above_ours"] == -0.5
    assert "learn.ours.above_ours" not in figures
    assert set(SAME) < set(PUPILS)
    table, *_ = Learn().show(figures)
    assert "| ours  | 2.5000 (2.0000 - 3.0000) |            |" in table
    assert "| trl   |                   2.5000 |    -0.5000 |" in table
