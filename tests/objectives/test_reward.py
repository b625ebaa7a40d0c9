"""The loss and figures of a reward model."""

from itertools import combinations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from src.objectives.preference_sums import preference_figures
from src.objectives.reward import RewardConfig, RewardModule, batch_rewards
from tests.objectives.conftest import END, batch_of, random_groups
from tests.training.conftest import train_config

PLAIN = RewardConfig("reward", margin=0.0, label_smoothing=0.0, centring=0.0, num_probes=0)


def module_of(model, config=PLAIN):
    optimizer = train_config("experiment=quickstart").optimizer
    return RewardModule(model, optimizer, objective=config, num_steps=1, log_every_n_steps=1)


def loss_and_gradient(module, batches):
    module.zero_grad()
    loss = sum(module.sums(batch).loss for batch in batches)
    loss.backward()
    return loss.detach(), torch.cat([p.grad.flatten() for p in module.model.parameters()])


def alone(model, row):
    return model.rewards(model(torch.tensor([row])), torch.tensor([len(row) - 1]))


@pytest.mark.parametrize("block_size", [64, 128, 500])
def test_a_reply_has_the_same_score_alone_and_packed_in_any_batch(scalar, block_size):
    groups = random_groups([2, 4, 3, 2, 2])
    batch = batch_of(groups, block_size=block_size)
    rows = [reply for group in groups for reply in group.replies]
    with torch.no_grad():
        found = batch_rewards(scalar, batch)
        for reply, reward in zip(batch["reply_number"].tolist(), found, strict=True):
            torch.testing.assert_close(reward, alone(scalar, rows[reply])[0], atol=1e-5, rtol=1e-5)


def test_packed_prompts_have_the_loss_and_gradient_that_they_have_alone(scalar):
    groups = random_groups([2, 4, 3, 2])
    module = module_of(scalar)
    together = loss_and_gradient(module, [batch_of(groups, block_size=256)])
    apart = loss_and_gradient(module, [batch_of([group]) for group in groups])
    for ours, theirs in zip(together, apart, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("tied", [False, True])
def test_the_loss_of_a_ranking_is_that_of_its_pairs_one_by_one(scalar, tied):
    groups = random_groups([4, 3], tied=tied)
    ranked = loss_and_gradient(module_of(scalar), [batch_of(groups, block_size=128)])
    scalar.zero_grad()
    loss = torch.zeros(())
    for group in groups:
        losses = [
            -F.logsigmoid(alone(scalar, group.replies[i]) - alone(scalar, group.replies[j]))
            for i, j in combinations(range(len(group.replies)), 2)
            if group.ranks[i] != group.ranks[j]
        ]
        loss = loss + torch.cat(losses).mean()  # a prompt counts once
    loss.backward()
    torch.testing.assert_close(ranked[0], loss.detach(), atol=1e-5, rtol=1e-5)
    gradient = torch.cat([p.grad.flatten() for p in scalar.parameters()])
    torch.testing.assert_close(ranked[1], gradient, atol=1e-5, rtol=1e-4)


def test_margin_smoothing_and_centring_are_what_they_say(scalar):
    groups = random_groups([2, 2])
    batch = batch_of(groups)
    config = RewardConfig("reward", margin=0.3, label_smoothing=0.1, centring=0.01, num_probes=0)
    loss = module_of(scalar, config).sums(batch).loss
    rewards = batch_rewards(scalar, batch)
    better, worse = rewards[batch["pairs"]].unbind(1)
    z = better - worse - 0.3
    expected = -0.9 * F.logsigmoid(z) - 0.1 * F.logsigmoid(-z) + 0.01 * (better + worse) ** 2
    torch.testing.assert_close(loss, expected.sum())


def test_the_figures_are_those_of_pairs_and_replies(scalar):
    groups = random_groups([4, 3, 2, 5], seed=3, tied=True)
    batch = batch_of(groups, block_size=256)
    with torch.no_grad():
        sums = module_of(scalar).sums(batch)
        found = preference_figures({name: float(value) for name, value in sums.items()})
        numbers = batch["reply_number"].argsort()
        rewards = batch_rewards(scalar, batch)[numbers].double().numpy()
    first = 0
    right, longer, chances, near, weights = [], [], [], [], []
    for group in groups:
        pairs = [
            (first + i, first + j, group.ranks[j] - group.ranks[i])
            for i, j in combinations(range(len(group.replies)), 2)
            if group.ranks[i] != group.ranks[j]
        ]
        first += len(group.replies)
        lengths = {n: len(r) for n, r in enumerate(row for g in groups for row in g.replies)}
        for i, j, gap in pairs:
            weights.append(1 / len(pairs))
            right.append(float(rewards[i] > rewards[j]))
            by = lengths[i] - lengths[j]
            longer.append(0.5 if by == 0 else float(by > 0))
            chances.append(1 / (1 + np.exp(-abs(rewards[i] - rewards[j]))))
            near.append(gap == 1)
    weight, right, chances = np.array(weights), np.array(right), np.array(chances)
    near = np.array(near)
    assert found["accuracy"] == pytest.approx(np.average(right, weights=weight), abs=1e-5)
    assert found["longer_accuracy"] == pytest.approx(np.average(longer, weights=weight), abs=1e-5)
    expected = np.average(right[near], weights=weight[near])
    assert found["accuracy_gap_1"] == pytest.approx(expected, abs=1e-5)
    error = 0.0
    for low in np.arange(0.5, 1.0, 0.1):
        inside = (chances >= low) & (chances < low + 0.1)
        error += abs((weight * (chances - right))[inside].sum())
    assert found["calibration_error"] == pytest.approx(error / weight.sum(), abs=1e-4)
    assert found["reward_mean"] == pytest.approx(rewards.mean(), abs=1e-4)
    assert found["reward_std"] == pytest.approx(rewards.std(), abs=1e-4)
    counts = [len(r) - g.num_context for g in groups for r in g.replies]
    correlation = np.corrcoef(rewards, counts)[0, 1]
    assert found["length_correlation"] == pytest.approx(correlation, abs=1e-3)


def test_a_batch_of_padding_has_a_loss_of_zero(scalar):
    from tests.objectives.conftest import blocks_of

    batch = blocks_of(random_groups([2])).batch(np.array([-1]), 1.0)
    loss = module_of(scalar).sums(batch).loss
    loss.backward()
    assert loss == 0


@pytest.fixture
def trl():
    return pytest.importorskip("trl", reason="trl, a peer, is not installed")


def test_loss_and_gradient_are_those_of_trl(scalar, trl, tmp_path, monkeypatch):
    from datasets import Dataset
    from transformers import GPT2ForSequenceClassification, PreTrainedTokenizerFast

    from src.model.scalar import classifier_config, classifier_weights, resized
    from tests.objectives.peers import tiny_tokenizer

    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    groups = random_groups([2, 2, 2], seed=5)
    ours, _ = loss_and_gradient(module_of(scalar), [batch_of(groups, block_size=128)])
    pad = END + 1
    padded = resized(scalar, END + 2)
    from transformers import GPT2Config

    config = GPT2Config(**classifier_config(padded, END, pad, 0.0))
    theirs = GPT2ForSequenceClassification(config)
    theirs.load_state_dict(classifier_weights(padded), strict=False)
    tokenizer: PreTrainedTokenizerFast = tiny_tokenizer(END, pad)
    trainer = trl.RewardTrainer(
        model=theirs.eval(),
        args=trl.RewardConfig(
            output_dir=str(tmp_path),
            report_to=[],
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            max_length=None,
        ),
        train_dataset=Dataset.from_list([{"chosen": "a", "rejected": "b"}] * 2),
        processing_class=tokenizer,
    )
    theirs.config.pad_token_id = pad
    theirs.eval()
    order = [g.replies[0] for g in groups] + [g.replies[1] for g in groups]
    length = max(map(len, order))
    batch = {
        "input_ids": torch.tensor([row + [pad] * (length - len(row)) for row in order]),
        "attention_mask": torch.tensor(
            [[n < len(row) for n in range(length)] for row in order]
        ).long(),
    }
    loss = trainer.compute_loss(theirs, batch)
    loss.backward()
    assert float(loss) == pytest.approx(float(ours) / len(groups), abs=1e-6)
    head = theirs.score.weight.grad.flatten()
    positions = theirs.transformer.wpe.weight.grad
    scalar_gradients = dict(scalar.named_parameters())
    torch.testing.assert_close(
        scalar_gradients["score.weight"].grad.flatten() / 3, head, atol=1e-6, rtol=1e-5
    )
    torch.testing.assert_close(
        scalar_gradients["wpe.weight"].grad / 3, positions, atol=1e-6, rtol=1e-5
    )
