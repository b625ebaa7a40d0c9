"""The losses of DPO, and the reference's log-probabilities."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from src.data.checksums import write_checksums
from src.errors import UserError
from src.model.gpt2 import GPT2
from src.objectives import reference as of_reference
from src.objectives.dpo_module import LOSSES, DPOConfig, DPOModule
from src.objectives.reference import Reference, with_reference
from src.objectives.reply_figures import reply_figures
from tests.model.conftest import random_model, tiny_config
from tests.objectives.conftest import END, blocks_of, random_groups
from tests.objectives.peers import tiny_tokenizer
from tests.training.conftest import train_config

PLAIN = DPOConfig("dpo", "sigmoid", 0.1, 0.0, 0.0, None, 5.0, 0)


def module_of(model, **changes):
    optimizer = train_config("experiment=quickstart").optimizer
    config = replace(PLAIN, **changes)
    return DPOModule(
        model, optimizer, objective=config, reference="", num_steps=1, log_every_n_steps=1
    )


def reference_of(model) -> Reference:
    return Reference(model, "cpu", "32-true", 2)


@pytest.fixture
def model():
    return random_model(tiny_config())


@pytest.fixture
def batch_of(model, tmp_path):
    """All groups as one batch, beside the log-probabilities of ``model``."""

    def make(groups, **values):
        blocks = blocks_of(groups, **values)
        key = str(hash(str(groups)))
        found = with_reference({"train": blocks}, reference_of(model), key, tmp_path)["train"]
        return found.batch(np.arange(len(found)), float(len(groups)))

    return make


@pytest.fixture
def policy():
    """A model that differs from its reference."""
    policy = random_model(tiny_config())
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return policy


def loss_and_gradient(module, batches):
    module.zero_grad()
    loss = sum(module.sums(batch).loss for batch in batches)
    loss.backward()
    return loss.detach(), torch.cat([p.grad.flatten() for p in module.model.parameters()])


def logprob(model: GPT2, row, num_context):
    scores = model.logits(model(torch.tensor([row])))[0].log_softmax(-1)
    return sum(scores[n - 1, row[n]] for n in range(num_context, len(row)))


@pytest.mark.parametrize("loss", ["sigmoid", "sigmoid_norm"])
def test_at_the_start_the_loss_is_log_2_and_all_rewards_are_zero(model, batch_of, loss):
    batch = batch_of(random_groups([2, 4, 3]), block_size=128)
    module = module_of(model, loss=loss)
    sums = {name: float(value) for name, value in module.sums(batch).items()}
    figures = module.figures(sums)
    assert figures["loss"] == pytest.approx(math.log(2), abs=1e-6)
    for name in ("reward_mean", "margin", "chosen_logratio", "rejected_logratio"):
        assert figures[name] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_ranking_has_the_loss_of_its_pairs_one_by_one(model, policy, batch_of, loss):
    groups = random_groups([4, 2])
    values = {"loss": loss, "beta": 0.3, "label_smoothing": 0.1, "sft_weight": 0.2}
    found = loss_and_gradient(module_of(policy, **values), [batch_of(groups, block_size=128)])
    policy.zero_grad()
    total = torch.zeros(())
    for group in groups:
        context, losses = group.num_context, []
        for i, better in enumerate(group.replies):
            for worse in group.replies[i + 1 :]:
                lengths = [len(row) - context for row in (better, worse)]
                own = [logprob(policy, row, context) for row in (better, worse)]
                with torch.no_grad():
                    theirs = [logprob(model, row, context) for row in (better, worse)]
                ratios = [
                    (a - b) / (n if loss != "sigmoid" else 1)
                    for a, b, n in zip(own, theirs, lengths, strict=True)
                ]
                z = ratios[0] - ratios[1]
                if loss == "ipo":
                    each = 0.9 * (z - 1 / 0.6) ** 2 + 0.1 * (-z - 1 / 0.6) ** 2
                else:
                    each = -0.9 * F.logsigmoid(0.3 * z) - 0.1 * F.logsigmoid(-0.3 * z)
                losses.append(each - 0.2 * own[0] / lengths[0])
        total = total + torch.stack(losses).mean()
    total.backward()
    gradient = torch.cat([p.grad.flatten() for p in policy.parameters()])
    torch.testing.assert_close(found[0], total.detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[1], gradient, atol=1e-5, rtol=1e-4)


def test_packed_prompts_have_the_loss_and_gradient_that_they_have_alone(policy, batch_of):
    groups = random_groups([2, 4, 3, 2])
    module = module_of(policy)
    together = loss_and_gradient(module, [batch_of(groups, block_size=256)])
    apart = loss_and_gradient(module, [batch_of([group]) for group in groups])
    for ours, theirs in zip(together, apart, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("loss", LOSSES)
def test_loss_and_gradient_are_those_of_trl(model, policy, batch_of, loss, tmp_path, monkeypatch):
    trl = pytest.importorskip("trl", reason="trl, a peer, is not installed")
    from datasets import Dataset
    from transformers import GPT2Config, GPT2LMHeadModel

    from src.model.pretrained import to_hugging_face
    from src.model.pretrained_config import hugging_face_config

    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")

    def hugging_face(ours):
        theirs = GPT2LMHeadModel(GPT2Config(**hugging_face_config(ours.config, [END])))
        theirs.load_state_dict(to_hugging_face(ours.state_dict()), strict=False)
        theirs.tie_weights()
        return theirs.eval()

    groups = random_groups([2, 2, 2], seed=5)
    module = module_of(policy, loss=loss)
    ours, _ = loss_and_gradient(module, [batch_of(groups, block_size=128)])
    learner = hugging_face(policy)
    arguments = trl.DPOConfig(
        output_dir=str(tmp_path),
        beta=0.1,
        loss_type=[loss],
        report_to=[],
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        max_length=None,
    )
    rows = [{"prompt": "a", "chosen": "b", "rejected": "a"}] * 2
    trainer = trl.DPOTrainer(
        model=learner,
        ref_model=hugging_face(model),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tiny_tokenizer(END, END),
    )
    order = [(g.replies[n], g.num_context) for n in range(2) for g in groups]
    length = max(len(row) for row, _ in order)
    batch = {
        "input_ids": [row + [END] * (length - len(row)) for row, _ in order],
        "attention_mask": [[int(n < len(row)) for n in range(length)] for row, _ in order],
        "completion_mask": [[int(c <= n < len(row)) for n in range(length)] for row, c in order],
    }
    learner.eval()
    loss = trainer.compute_loss(learner, {name: torch.tensor(v) for name, v in batch.items()})
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(ours) / 3, rel=1e-6, abs=1e-6)
    for name, theirs in (
        ("wpe.weight", learner.transformer.wpe.weight.grad),
        ("wte.weight", learner.transformer.wte.weight.grad),
    ):
        found = dict(policy.named_parameters())[name].grad / 3
        torch.testing.assert_close(found, theirs, atol=1e-6, rtol=1e-4)


def test_the_reference_is_computed_once(model, tmp_path, monkeypatch):
    splits = {"train": blocks_of(random_groups([2, 3])), "test": blocks_of(random_groups([2], 1))}
    first = with_reference(splits, reference_of(model), "rows", tmp_path)
    monkeypatch.setattr(of_reference, "_compute", lambda *_: pytest.fail("computed again"))
    again = with_reference(splits, reference_of(model), "rows", tmp_path)
    assert np.array_equal(first["train"].targets.logprobs, again["train"].targets.logprobs)
    with pytest.raises(pytest.fail.Exception):
        with_reference(splits, reference_of(model), "other rows", tmp_path)
    with pytest.raises(pytest.fail.Exception):
        with_reference(splits, reference_of(random_model(tiny_config(), 1)), "rows", tmp_path)


def test_what_is_damaged_is_computed_again(model, tmp_path):
    splits = {"train": blocks_of(random_groups([2, 3]))}
    with_reference(splits, reference_of(model), "rows", tmp_path)
    (path,) = tmp_path.glob("*/train.npy")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with_reference(splits, reference_of(model), "rows", tmp_path)
    assert path.read_bytes() == whole


def test_what_another_library_has_computed_is_computed_again(model, tmp_path):
    splits = {"train": blocks_of(random_groups([2, 3]))}
    with_reference(splits, reference_of(model), "rows", tmp_path)
    (path,) = tmp_path.glob("*/train.npy")
    whole = np.load(path)
    np.save(path, whole + 0.1)
    write_checksums(path.parent, ["train.npy"], path.parent.name)
    again = with_reference(splits, reference_of(model), "rows", tmp_path)["train"]
    assert np.array_equal(again.targets.logprobs, whole, equal_nan=True)
    assert np.array_equal(np.load(path), whole, equal_nan=True)


def test_rounding_of_many_tokens_is_allowed(model, tmp_path):
    splits = {"train": blocks_of(random_groups([2, 3]))}
    blocks = with_reference(splits, reference_of(model), "rows", tmp_path)["train"]
    blocks.targets.logprobs += 2e-5  # more than 1e-6 of each log-probability
    assert 0 < reference_of(model).check_start(model, blocks) < 1e-4


def test_a_reference_that_is_another_model_is_found_before_the_first_step(model, policy, tmp_path):
    splits = {"train": blocks_of(random_groups([2, 3]))}
    blocks = with_reference(splits, reference_of(model), "rows", tmp_path)["train"]
    assert reference_of(model).check_start(model, blocks) <= 1e-6
    with pytest.raises(UserError, match="before the first step the log-probability of a reply is"):
        reference_of(model).check_start(policy, blocks)


def test_figures_of_replies():
    replies = [[1, 2, 3, 4, 1, 2, 3, 4], [5, 6], []]
    assert reply_figures(replies, 8) == {
        "reply_tokens": pytest.approx(10 / 3),
        "reply_ended": pytest.approx(2 / 3),
        "reply_repetition": pytest.approx(1 / 5),
    }
