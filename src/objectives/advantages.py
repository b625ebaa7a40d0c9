"""How much better than expected each token of a reply was: pure functions, for PPO and its kin.

Replies are ragged: the tokens of all of them stand end to end, those of one side by side. There is
no padding that a mean could take in.

Shape letters: N replies, R tokens of all replies, L tokens of the longest, K replies of a prompt.
"""

import torch
from torch import Tensor


def token_rewards(
    scores: Tensor, logprobs: Tensor, reference: Tensor, lengths: Tensor, kl_coef: float
) -> Tensor:
    """Return the reward (R,) of each token: its KL penalty, and the reply's score at the last one.

    The penalty is ``kl_coef`` times the log-ratio (Ziegler et al., arXiv:1909.08593, 2). The score
    stands on the last token itself, the end token if there is one.

    Args:
        scores: (N,) of the replies.
        logprobs: (R,) of the tokens under the policy that drew them, in nats.
        reference: (R,) under the reference.
        lengths: (N,) int64 tokens of each reply, at least 1.
        kl_coef: what a nat costs.
    """
    rewards = -kl_coef * (logprobs - reference)
    return rewards.index_add(0, lengths.cumsum(0) - 1, scores.to(rewards.dtype))


def gae(
    rewards: Tensor, values: Tensor, lengths: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Return advantages (R,) and returns (R,) (Schulman et al., arXiv:1506.02438, equation 16).

    A reply is an episode of its own; nothing is to come after its last token.

    Args:
        rewards: (R,) of the tokens.
        values: (R,) that were expected before each token.
        lengths: (N,) int64 tokens of each reply, at least 1.
        gamma: what a reward one token later is worth.
        lam: 1: all rewards to come; 0: the next value alone.
    """
    place = _places(lengths)
    shape = (len(lengths), int(lengths.max()))
    padded_rewards, padded_values = rewards.new_zeros(shape), values.new_zeros(shape)
    padded_rewards[place], padded_values[place] = rewards, values
    advantages = torch.zeros_like(padded_values)
    next_value = next_advantage = values.new_zeros(len(lengths))
    for t in reversed(range(shape[1])):
        delta = padded_rewards[:, t] + gamma * next_value - padded_values[:, t]
        is_there = t < lengths  # beyond a reply there is nothing to expect
        next_advantage = torch.where(is_there, delta + gamma * lam * next_advantage, 0.0)
        next_value = torch.where(is_there, padded_values[:, t], 0.0)
        advantages[:, t] = next_advantage
    found = advantages[place]
    return found, found + values


def _places(lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Return row and column (R,) of each token in a table (N, L) with a row for each reply."""
    rows = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)
    starts = lengths.cumsum(0) - lengths
    return rows, torch.arange(len(rows), device=lengths.device) - starts[rows]


def whitened(values: Tensor, shift_mean: bool = True) -> Tensor:
    """Return ``values`` (R,) at variance 1 and, with ``shift_mean``, mean 0.

    The whole batch, over all ranks and micro-batches, belongs into one call: means of means are
    others. As OpenAI's code: the variance is that of the values, not an estimate of their source.
    """
    mean, variance = values.mean(), values.var(unbiased=False)
    found = (values - mean) * torch.rsqrt(variance + 1e-8)
    return found if shift_mean else found + mean


def leave_one_out(returns: Tensor, num_replies: int) -> Tensor:
    """Return the advantage (N,) of each reply over the others to its prompt (RLOO).

    Ahmadian et al., arXiv:2402.14740, 2.2: the baseline is the mean of the other replies' returns,
    so it does not depend on the reply itself.

    Args:
        returns: (N,) score less KL penalty of each reply; those of a prompt are neighbours.
        num_replies: K, at least 2.
    """
    by_prompt = returns.view(-1, num_replies)
    others = (by_prompt.sum(1, keepdim=True) - by_prompt) / (num_replies - 1)
    return (by_prompt - others).flatten()


def group_normalised(scores: Tensor, num_replies: int) -> Tensor:
    """Return the advantage (N,) of each reply among those to its prompt (GRPO).

    Shao et al., arXiv:2402.03300, 4.1.2: less their mean, over their standard deviation. Where all
    replies score the same, it is 0.

    Args:
        scores: (N,) of the replies; those of a prompt are neighbours.
        num_replies: K, at least 2.
    """
    by_prompt = scores.view(-1, num_replies)
    deviation = by_prompt.std(1, keepdim=True)
    return ((by_prompt - by_prompt.mean(1, keepdim=True)) / (deviation + 1e-4)).flatten()
