"""The sums of which a reward model's figures are made, over any number of batches and ranks.

Shape letters: N replies, P pairs.
"""

from collections.abc import Mapping
from math import sqrt

import torch
from torch import Tensor

from src.objectives.calibration import SUMS, bin_sums, calibration_error, is_right

FAR = 3  # places: pairs further apart in their ranking count with these
OF_PAIRS = ("num_prompts", "right", "margin", "longer")
OF_REPLIES = ("num_replies", "reward", "reward_square", "length", "length_square", "product")
OF_GAPS = tuple(f"{kind}_gap_{gap}" for gap in range(1, FAR + 1) for kind in ("weight", "right"))
NAMES = ("loss", *OF_PAIRS, *OF_REPLIES, *OF_GAPS, *SUMS)


def preference_sums(
    rewards: Tensor,
    lengths: Tensor,
    *,
    margins: Tensor,
    longer_by: Tensor,
    gaps: Tensor,
    weight: Tensor,
) -> dict[str, Tensor]:
    """Return the sums of all ``NAMES`` but the loss.

    Args:
        rewards: (N,).
        lengths: (N,) tokens of each reply.
        margins: (P,) reward of the better reply less that of the worse one.
        longer_by: (P,) tokens, likewise.
        gaps: (P,) int64 how many places apart the two are in their ranking, from 1.
        weight: (P,) what each pair counts; of each prompt's pairs it is 1 together.
    """
    right = weight * is_right(margins)
    pairs = (weight, right, weight * margins, weight * is_right(longer_by))
    ones = torch.ones_like(rewards)
    replies = (ones, rewards, rewards.square(), lengths, lengths.square(), rewards * lengths)
    by_gap = torch.zeros(FAR, 2, device=margins.device)
    by_gap.index_add_(0, gaps.clamp(1, FAR) - 1, torch.stack([weight, right], dim=1))
    return {
        **{name: value.sum() for name, value in zip(OF_PAIRS, pairs, strict=True)},
        **{name: value.sum() for name, value in zip(OF_REPLIES, replies, strict=True)},
        **dict(zip(OF_GAPS, by_gap.flatten(), strict=True)),
        **bin_sums(margins, weight),
    }


def preference_figures(sums: Mapping[str, float]) -> dict[str, float]:
    """Return the figures of pairs, each prompt counted once, and of replies.

    ``loss`` in nats; ``accuracy``: pairs in the labeller's order, a tie is half a pair;
    ``accuracy_gap_1``: of neighbours in a ranking, and so on; ``longer_accuracy``: of the rule that
    the longer reply is the better one; ``margin``: mean difference of rewards;
    ``calibration_error``; ``reward_mean`` and ``reward_std`` over replies; ``length_correlation``
    of reward and length.
    """
    count = max(sums["num_prompts"], 1e-12)
    found = {
        "loss": sums["loss"] / count,
        "accuracy": sums["right"] / count,
        "margin": sums["margin"] / count,
        "calibration_error": calibration_error(sums),
        "longer_accuracy": sums["longer"] / count,
    }
    for gap in range(1, FAR + 1):
        weight = sums[f"weight_gap_{gap}"]
        if 0 < weight < count * (1 - 1e-6):  # of all pairs it would be the accuracy again
            found[f"accuracy_gap_{gap}"] = sums[f"right_gap_{gap}"] / weight
    return found | reward_figures(sums)


def reward_figures(sums: Mapping[str, float]) -> dict[str, float]:
    """Return mean and standard deviation of the rewards, and their correlation with length."""
    count = max(sums["num_replies"], 1)
    reward, length = sums["reward"] / count, sums["length"] / count
    of_reward = max(sums["reward_square"] / count - reward**2, 0.0)
    of_length = max(sums["length_square"] / count - length**2, 0.0)
    scale = sqrt(of_reward * of_length)
    covariance = sums["product"] / count - reward * length
    return {
        "reward_mean": reward,
        "reward_std": sqrt(of_reward),
        "length_correlation": covariance / scale if scale > 1e-9 else 0.0,
    }
