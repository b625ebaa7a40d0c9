"""How good the reward model is, on test rankings, where the labeller's taste is known."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from src.data.sample.labeller import ceiling, judge, question_of
from src.data.template import encode_prompt
from src.data.tokenizer import Tokenizer
from src.model.replies import Replies, reply_rewards
from src.model.rollout import Rollout
from src.ranking.records import Records
from src.talk.reward_folder import load_reward_folder


def gold_figures(
    rewards: Sequence[np.ndarray], golds: Sequence[np.ndarray]
) -> dict[str, float | None]:
    """Return how the rewards of each prompt's replies agree with their true quality.

    ``gold_order``: the share of the pairs with different gold that the rewards order as gold does,
    ties half. ``gold_correlation``: within a prompt, of all of them. Each prompt counts once. None:
    gold is the same everywhere.
    """
    shares, ones, others = [], [], []
    for reward, gold in zip(rewards, golds, strict=True):
        one, other = np.triu_indices(len(gold), 1)
        gaps, margins = gold[one] - gold[other], reward[one] - reward[other]
        right = np.where(margins == 0, 0.5, np.sign(margins) == np.sign(gaps))[gaps != 0]
        if len(right):
            shares.append(right.mean())
        ones.append(reward - reward.mean())
        others.append(gold - gold.mean())
    one, other = np.concatenate(ones), np.concatenate(others)
    scale = float(np.sqrt((one**2).sum() * (other**2).sum()))
    return {
        "gold_order": float(np.mean(shares)) if shares else None,
        "gold_correlation": float((one * other).sum()) / scale if scale else None,
    }


def reward_figures(
    folder: Path, rankings: Path, run: dict[str, Any], noise: float
) -> dict[str, float | None]:
    """Return the figures of the reward model in ``folder``.

    Args:
        folder: of the reward model.
        rankings: the file of test rankings.
        run: the figures of its run, ``test/...`` among them.
        noise: of the labeller.
    """
    rows = Records(rankings).rows
    golds = [_golds(row) for row in rows]
    reward = load_reward_folder(str(folder))
    sizes = [len(row["replies"]) for row in rows]
    replies = _replies(rows, reward.tokenizer)
    found = reply_rewards(reward.model.eval(), replies, reward.tokenizer.end_id)
    rewards = [part.numpy() for part in torch.split(found, sizes)]
    chances = [np.mean(ceiling(gold.tolist(), noise)) for gold in golds]
    return {
        "accuracy": run["test/accuracy"],
        "accuracy_ceiling": float(np.mean(chances)),
        "calibration_error": run["test/calibration_error"],
        "longer_accuracy": run["test/longer_accuracy"],
        **gold_figures(rewards, golds),
    }


def _golds(row: dict[str, Any]) -> np.ndarray:
    question = question_of(row["prompt"])
    assert question is not None  # the embedded labeller has ranked it
    pairs = zip(row["replies"], row["ended"], strict=True)
    return np.array([judge(question, reply, ended).gold for reply, ended in pairs])


def _replies(rows: list[dict[str, Any]], tokenizer: Tokenizer) -> Replies:
    """Return the replies of all rows as a model reads them."""
    prompts, rollouts, numbers = [], [], []
    for number, row in enumerate(rows):
        prompt = encode_prompt(tokenizer, row["prompt"])
        for reply, ended in zip(row["replies"], row["ended"], strict=True):
            ids = tokenizer.encode(f" {reply}") if reply else []
            prompts.append(prompt)
            rollouts.append(Rollout([*ids, *[tokenizer.end_id] * ended], [], ended))
            numbers.append(number)
    return Replies.of(prompts, rollouts, numbers)
