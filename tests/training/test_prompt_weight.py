"""Prompts that are scored at a weight: the gradient is that of a weighted mean, however cut.

Validation and test, and every figure that is logged, are those of the responses alone.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from src.data.datamodule import ChatDataModule
from src.data.order import Batching
from src.errors import UserError
from src.model.gpt2 import GPT2
from src.objectives.sft import PromptWeightedModule, SFTModule
from src.training.run import Run
from tests.training.conftest import curves, metrics
from tests.training.test_distributed import TWO, finish, start
from tests.training.test_sft import first_gradient  # noqa: F401 - a fixture

WEIGHT = 0.3
SCORED = f"data.prompt_loss_weight={WEIGHT}"


def of_data(blocks, blocks_of_step, model) -> torch.Tensor:
    """The weighted mean written out: every example alone, all logits."""
    losses, weights = [], []
    for block in blocks_of_step:
        for kept in blocks.packing[block]:
            example = blocks.corpus.example(blocks.corpus_index[kept])
            ids = torch.tensor(example.input_ids[: blocks.lengths[kept]].astype(int))
            logits = model.logits(model(ids[None]))[0, :-1]
            losses.append(F.cross_entropy(logits, ids[1:], reduction="none"))
            of_kind = torch.tensor([0.0, 1.0, WEIGHT])
            weights.append(of_kind[torch.tensor(example.supervised[1 : len(ids)].astype(int))])
    weight = torch.cat(weights)
    assert (weight > 0).all(), "every token but the first of an example is scored"
    return (torch.cat(losses) * weight).sum() / weight.sum()


def test_the_gradient_is_that_of_the_weighted_mean_over_the_global_batch(
    small_run,
    first_gradient,  # noqa: F811
    monkeypatch,
):
    seen = {}
    execute = Run.execute

    def keep(self):
        seen["model"] = GPT2(self.module.model.config)
        seen["model"].load_state_dict(self.module.model.state_dict())
        seen["data"] = self.data
        return execute(self)

    monkeypatch.setattr(Run, "execute", keep)
    small_run("micro_batch_size=2", "max_steps=1", "optimizer.warmup_steps=0", SCORED)
    model, data = seen["model"], seen["data"]
    batches = data._micro_batches(data.splits["train"], train=True)
    of_data(batches.blocks, batches.global_batch(0), model).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            first_gradient[name], parameter.grad, atol=1e-6, rtol=1e-3, msg=name
        )


def test_cut_any_way_the_gradient_and_the_figures_are_the_same(
    quick_run,
    first_gradient,  # noqa: F811
):
    whole = quick_run("micro_batch_size=8", SCORED, folder="1x8")
    expected = dict(first_gradient)
    for micro in (4, 1):
        cut = quick_run(f"micro_batch_size={micro}", SCORED, folder=f"{8 // micro}x{micro}")
        for name, gradient in first_gradient.items():
            torch.testing.assert_close(gradient, expected[name], atol=1e-6, rtol=1e-4)
        for tag in ("train/loss", "train/accuracy", "val/loss", "grad_norm"):
            one, other = curves(whole)[tag], curves(cut)[tag]
            found = list(other.values())
            assert found == pytest.approx(list(one.values()), rel=1e-3, abs=1e-4), tag


def test_figures_are_those_of_the_responses(quick_run, caplog):
    """Before anything is learned they equal those of a run that scores no prompts, to the bit."""
    still = ("optimizer.learning_rate=1e-12", "optimizer.weight_decay=0", "max_steps=3")
    plain = quick_run(*still, folder="plain")
    with caplog.at_level("INFO"):
        scored = quick_run(*still, SCORED, folder="scored")
    assert "data.prompt_loss_weight=0.3: prompts are learned from, too" in caplog.text
    assert "of prompts at weight 0.3" in caplog.text
    for tag in ("train/loss", "train/accuracy", "val/loss", "val/accuracy"):
        assert curves(scored)[tag] == pytest.approx(curves(plain)[tag], rel=1e-6), tag
    assert curves(scored)["grad_norm"][1] != pytest.approx(curves(plain)["grad_norm"][1], rel=1e-2)
    assert metrics(scored)["test/loss"] == pytest.approx(metrics(plain)["test/loss"], rel=1e-6)
    assert metrics(scored).keys() == metrics(plain).keys()


def test_without_it_nothing_is_computed_or_stored(small_run, monkeypatch):
    """The module, the corpus and the batches are those of a run that knows no such key."""
    seen = []
    original = SFTModule.training_step

    def hook(self, batch, batch_idx):
        kinds = self.trainer.datamodule.splits["train"].corpus.supervised.dtype
        seen.append((type(self), sorted(batch), type(batch["denominator"]), kinds))
        return original(self, batch, batch_idx)

    monkeypatch.setattr(SFTModule, "training_step", hook)
    small_run("max_steps=1", folder="plain")
    small_run("max_steps=1", SCORED, folder="scored")
    (kind, keys, number, stored), (weighted, more, _, marked) = seen
    assert (kind, weighted) == (SFTModule, PromptWeightedModule)
    assert not [key for key in keys if "prompt" in key]
    assert sorted({*more} - {*keys}) == ["prompt_index", "prompt_labels"]
    assert number is int
    assert (stored, marked) == (np.bool_, np.uint8)


def test_held_out_splits_are_the_same_whatever_training_does(small_run, monkeypatch):
    seen = []
    execute = Run.execute
    monkeypatch.setattr(Run, "execute", lambda self: seen.append(self.data) or execute(self))
    small_run("max_steps=1", folder="plain")
    off = ("data.isolate_documents=false", "data.reset_positions=false", "data.packing=false")
    small_run("max_steps=1", SCORED, *off, folder="off")
    for split in ("validation", "test"):
        one, other = (data.splits[split].batch(np.arange(3), 1) for data in seen)
        assert one.keys() == other.keys()
        for key, value in one.items():
            same = torch.equal(value, other[key]) if torch.is_tensor(value) else value == other[key]
            assert same, key
    train = seen[1].splits["train"].batch(np.arange(2), 1)
    assert train["cu_seqlens"].tolist() == [0, 64, 128]
    assert train["position_ids"].tolist() == [list(range(64))] * 2


def test_adapters_learn_from_prompts_too(quick_run):
    pytest.importorskip("peft")
    base = quick_run("max_steps=2", folder="base") / "model"
    own = (f"model.pretrained={base}", f"model.tokenizer={base}", "lora.rank=2")
    plain, scored = (
        metrics(quick_run(*own, *extra, "optimizer.learning_rate=1e-2", folder=folder))
        for folder, extra in (("lora", ()), ("scored", (SCORED,)))
    )
    assert plain["test/loss"] != scored["test/loss"]


def test_a_run_that_goes_on_may_not_change_it(small_run):
    run = small_run("max_steps=2", SCORED)
    (run / "metrics.json").unlink()
    with pytest.raises(UserError, match=r"had data.prompt_loss_weight=0.3, not 0.0"):
        small_run("max_steps=2", "resume=auto")


def test_prompts_are_not_scored_beside_other_targets(data_config, tokenizer):
    config = data_config(prompt_loss_weight=WEIGHT)
    with pytest.raises(UserError, match="objective=sft alone"):
        ChatDataModule(
            config,
            tokenizer,
            source=None,
            block_size=64,
            batching=Batching(1, 1, 1),
            seed=1,
            targets=object(),
        )


@pytest.mark.whole
def test_two_processes_learn_what_one_learns(small_run, tmp_path):
    one = small_run("trainer.log_every_n_steps=4", SCORED)
    two = tmp_path / "two"
    finish(start(*TWO, SCORED, f"hydra.run.dir={two}", f"data.corpus_dir={tmp_path / 'corpora'}"))
    for tag in ("train/loss", "val/loss", "grad_norm"):
        expected = list(curves(one)[tag].values())
        assert list(curves(two)[tag].values()) == pytest.approx(expected, rel=1e-3), tag
