"""Equal work: the same examples end at the same held-out loss, whoever's loop it is."""

from dataclasses import replace

import pytest
import torch

from src.benchmark import learn
from src.benchmark.article import load_article_gpt
from src.benchmark.inputs import open_blocks
from src.benchmark.learn import (
    PUPILS,
    Learnt,
    equal_settings,
    held_out_loss,
    learning_figures,
    model_folder,
    save,
)
from src.benchmark.stopwatch import Finished
from src.model.pretrained import load_pretrained

SAME = ("bare_loop", "huggingface", "huggingface_padded")  # the same examples in each step


class Watch:
    """A stopwatch for one lap."""

    def begin(self):
        pass

    def lap(self, amount):
        self.amount = amount
        raise Finished


@pytest.fixture(scope="module")
def held_out(job):
    data = open_blocks(job.config, packing=True, batch_size=1, micro_batch_size=1)
    return data.splits["train"]


@pytest.fixture
def learnt_loss(job, held_out, tmp_path):
    """Train as a variant on so many tokens; return the loss of its weights."""

    def run(name: str, num_tokens: int) -> float:
        config = equal_settings(job.config, 1e-2)
        setting = {"variant": name, "num_tokens": num_tokens}
        own = replace(job, config=config, setting=setting, folder=tmp_path / name)
        own.folder.mkdir()
        watch = Watch()
        torch.manual_seed(0)
        with pytest.raises(Finished):
            learn.learn(own, watch)
        assert num_tokens <= watch.amount < num_tokens + 4 * 64 + 30
        return held_out_loss(model_folder(own), held_out)

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
    assert learnt_loss("blog_packed", 2000) < before - 0.2  # its own 6e-5 would not get there


@pytest.mark.slow
def test_trl_learns_as_ours(learnt_loss):
    pytest.importorskip("trl")
    assert learnt_loss("trl", 4000) == pytest.approx(learnt_loss("ours", 4000), abs=1e-3)


def test_the_articles_weights_are_scored_as_they_are(job, tmp_path):
    model = load_article_gpt(job.config.model.pretrained).eval()
    save(model, tmp_path)
    again = load_pretrained(str(tmp_path))
    ids = torch.randint(0, 300, (1, 20))
    torch.testing.assert_close(again.logits(again(ids)), model(ids), rtol=1e-4, atol=1e-4)


def test_all_are_taught_the_same_labels_whatever_the_run_says(job):
    """TRL knows no other labels than the completion's."""
    given = replace(job.config, data=replace(job.config.data, supervise="article"))
    assert equal_settings(given, 1e-3).data.supervise == "responses"


def test_work_that_ends_too_early_is_an_error(job, tmp_path, monkeypatch):
    monkeypatch.setitem(PUPILS, "ours", (lambda job, stopwatch: None, {}))
    own = replace(job, setting={"variant": "ours", "num_tokens": 10}, folder=tmp_path)
    with pytest.raises(RuntimeError, match="ours stopped with 10 to go"):
        learn.learn(own, Watch())


def test_figures_compare_seed_by_seed():
    learnt = {"ours": Learnt({7: 2.0, 8: 3.0}, 10), "trl": Learnt({8: 2.5}, 11)}
    figures = learning_figures(learnt, 6.0)
    assert figures["learn.held_out_loss_before"] == 6.0
    assert figures["learn.ours.held_out_loss"] == 2.5
    assert figures["learn.ours.spread"] == [2.0, 3.0]
    assert figures["learn.trl.above_ours"] == -0.5
    assert "learn.ours.above_ours" not in figures
    assert set(SAME) < set(PUPILS)
