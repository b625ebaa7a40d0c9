"""What a policy answers to held-out prompts, and what the best of several replies is worth."""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from src.evaluation.best_of import best_of_weights, sizes_up_to
from src.model.replies import Replies
from src.objectives.policy_figures import JUDGED
from src.objectives.rewards import reply_text, verdict

VALIDATION = 2**40  # from here on held-out replies are numbered: chance is the same each time
BEST_OF = 2**41  # and those of the start's best of n
COLUMNS = ["prompt", "reply", "score", "KL to the reference"]

log = logging.getLogger(__name__)
Module = Any  # a PolicyModule, which imports this file


@dataclass(frozen=True)
class Answer:
    """One reply.

    Attributes:
        sums: what it adds to the figures of its split.
        row: its text, score and KL, by ``COLUMNS``.
    """

    sums: dict[str, float]
    row: list[str]


def held_out_answers(module: Module, split: str, numbers: list[int]) -> list[Answer]:
    """Return a reply to each of the prompts of these ``numbers`` in a split.

    Where the embedded labeller knows the question, its true opinion is told, too.
    """
    prompts, tokenizer = module.data.prompts(split, numbers), module.data.tokenizer
    rollouts = module.sampling.rollouts(module.model, prompts, [VALIDATION + n for n in numbers])
    replies, asked = Replies.of(prompts, rollouts, numbers), module.data.asked(split)
    answers = []
    for rows in _parts(module, replies):
        known = module.known(replies, rows, split)
        for row, new, old, score in zip(
            rows, known.logprobs, known.reference, known.scores, strict=True
        ):
            text, prompt = reply_text(replies, row, tokenizer), asked[numbers[row]]
            kl, ended = float((new - old).sum()), bool(replies.ended[row])
            sums = {"score": score, "kl": kl, "length": float(len(new)), "ended": float(ended)}
            opinion = verdict(prompt, text, ended)
            if opinion is not None:
                sums |= {n: float(getattr(opinion, n)) for n in JUDGED}
                sums["num_judged"] = 1.0
            row_shown = [prompt.prompt, text, f"{score:.2f}", f"{kl:.2f}"]
            answers.append(Answer({**sums, "num_replies": 1.0}, row_shown))
    return answers


@torch.no_grad()
def best_of(module: Module) -> dict[str, float]:
    """Say what the best of several replies of the start is worth: the ceiling to beat.

    Return it as a figure; on rank 0 only, and if there are validation prompts.
    """
    count, most = module.objective.best_of, module.objective.best_of_prompts
    numbers = module.data.held_out("validation")[:most].repeat(count).tolist()
    if not numbers or not module.trainer.is_global_zero:
        return {}
    prompts = module.data.prompts("validation", numbers)
    chance = [BEST_OF + number for number in range(len(numbers))]
    rollouts = module.sampling.rollouts(module.model, prompts, chance)
    replies = Replies.of(prompts, rollouts, numbers)
    found = [module.known(replies, r, "validation").scores for r in _parts(module, replies)]
    scores = np.sort(np.reshape([s for part in found for s in part], (-1, count)), axis=1)
    means = {n: float(scores.mean(0) @ best_of_weights(count, n)) for n in sizes_up_to(count)}
    log.info(
        "before the first step one reply scores %.3f in the mean of %d prompts%s: the ceiling to "
        "beat",
        *(means.pop(1), len(scores)),
        "".join(f", the best of {n} {mean:.3f}" for n, mean in means.items()),
    )
    return {f"val/best_of_{count}": float(scores[:, -1].mean())}


def _parts(module: Module, replies: Replies) -> list[range]:
    """Return which replies are computed together."""
    size = module.data.batching.micro_batch_size
    return [range(len(replies))[at : at + size] for at in range(0, len(replies), size)]
