"""Advantages are those of OpenAI's code, on each reply alone."""

import pytest
import torch

from src.objectives.advantages import (
    gae,
    group_normalised,
    leave_one_out,
    token_rewards,
    whitened,
)

LENGTHS = torch.tensor([7, 3, 1, 5, 6])
KL_COEF, LAM = 0.1, 0.95


@pytest.fixture
def tokens():
    """Log-probabilities of policy and reference, values (R,), and scores (N,)."""
    generator = torch.Generator().manual_seed(0)
    total = int(LENGTHS.sum())
    found = [torch.randn(total, generator=generator) for _ in range(3)]
    return [*found, torch.randn(len(LENGTHS), generator=generator)]


def openai_advantages(scores, logprobs, reference, values, lam):
    """``compute_rewards`` and ``loss`` of lm-human-preferences, a row at a time."""
    rows = zip(
        scores,
        *(x.split(LENGTHS.tolist()) for x in (logprobs, reference, values)),
        strict=True,
    )
    found, returns = [], []
    for score, own, theirs, expected in rows:
        rewards = -KL_COEF * (own - theirs)
        rewards[-1] += score
        lastgaelam, reversed_advantages = 0.0, []
        gen_length = len(own)
        for t in reversed(range(gen_length)):
            nextvalues = expected[t + 1] if t < gen_length - 1 else 0.0
            delta = rewards[t] + 1.0 * nextvalues - expected[t]
            lastgaelam = delta + 1.0 * lam * lastgaelam
            reversed_advantages.append(lastgaelam)
        advantages = torch.stack(reversed_advantages[::-1])
        found.append(advantages)
        returns.append(advantages + expected)
    return torch.cat(found), torch.cat(returns)


@pytest.mark.parametrize("lam", [LAM, 1.0, 0.0])
def test_gae_is_that_of_openais_code(tokens, lam):
    logprobs, reference, values, scores = tokens
    rewards = token_rewards(scores, logprobs, reference, LENGTHS, KL_COEF)
    found = gae(rewards, values, LENGTHS, 1.0, lam)
    expected = openai_advantages(scores, logprobs, reference, values, lam)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)


def test_with_lambda_1_it_is_monte_carlo(tokens):
    logprobs, reference, values, scores = tokens
    rewards = token_rewards(scores, logprobs, reference, LENGTHS, KL_COEF)
    _, returns = gae(rewards, values, LENGTHS, 1.0, 1.0)
    to_come = [x.flip(0).cumsum(0).flip(0) for x in rewards.split(LENGTHS.tolist())]
    torch.testing.assert_close(returns, torch.cat(to_come), atol=1e-5, rtol=1e-5)


def test_the_score_stands_on_the_last_token(tokens):
    logprobs, _, _, scores = tokens
    rewards = token_rewards(scores, logprobs, logprobs, LENGTHS, KL_COEF)
    ends = LENGTHS.cumsum(0) - 1
    assert torch.equal(rewards[ends], scores)
    assert rewards.count_nonzero() == len(scores)


def test_a_later_reward_is_worth_less(tokens):
    rewards = torch.tensor([0.0, 0.0, 1.0])
    found, _ = gae(rewards, torch.zeros(3), torch.tensor([3]), 0.5, 1.0)
    torch.testing.assert_close(found, torch.tensor([0.25, 0.5, 1.0]))


def test_whitening_is_that_of_openais_code(tokens):
    values = tokens[0]
    mean, variance = values.mean(), ((values - values.mean()) ** 2).mean()
    expected = (values - mean) * torch.rsqrt(variance + 1e-8)
    torch.testing.assert_close(whitened(values), expected)
    torch.testing.assert_close(whitened(values, shift_mean=False), expected + mean)


def test_a_reply_is_compared_with_the_others_to_its_prompt():
    returns = torch.tensor([1.0, 2.0, 6.0, 0.0, 0.0, 3.0])
    found = leave_one_out(returns, 3)
    torch.testing.assert_close(found, torch.tensor([-3.0, -1.5, 4.5, -1.5, -1.5, 3.0]))


def test_scores_are_normalised_within_a_prompt():
    scores = torch.tensor([1.0, 3.0, 5.0, 5.0])
    found = group_normalised(scores, 2)
    torch.testing.assert_close(found, torch.tensor([-0.7071, 0.7071, 0.0, 0.0]), atol=1e-3, rtol=0)
