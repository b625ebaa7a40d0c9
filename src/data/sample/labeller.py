"""A labeller whose taste is known: what is better is a program, what is said of it is noisy.

The true quality of a reply, its gold, is a sum of plain rules. A ranking sorts gold plus Gumbel
noise: Plackett-Luce, whose pairs are Bradley-Terry with the difference in gold (Luce, "Individual
choice behavior", 1959). So the best accuracy that a reward model can reach is known.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from src.data.report import prompt_hash
from src.data.sample.manners import POLITE, RUDE
from src.data.sample.questions import Question, questions

WORD_COST = 0.1  # of gold, for each word too many
MOST_WORD_COST = 1.0
ENDINGS = (".", "!", "?", '"')


@dataclass(frozen=True)
class Verdict:
    """What the labeller sees in a reply."""

    right: bool
    polite: bool
    rude: bool
    finished: bool
    extra_words: int

    @property
    def gold(self) -> float:
        """The true quality of the reply, from -3 to 3."""
        manners = float(self.polite) - float(self.rude) - float(not self.finished)
        return 2.0 * self.right + manners - min(MOST_WORD_COST, WORD_COST * self.extra_words)

    @property
    def perfect(self) -> bool:
        """Whether nothing could be better: gold is 3."""
        return (
            self.right
            and self.polite
            and not self.rude
            and self.finished
            and (self.extra_words == 0)
        )


def judge(question: Question, reply: str, ended: bool) -> Verdict:
    """Return the verdict on a reply; ``ended``: by its end token, not by a limit."""
    text = reply.strip()
    manner = next((m.strip() for m in POLITE if text.startswith(m.strip())), "")
    allowed = len(question.response.split()) + len(manner.split())
    answer = rf"(?<!\w){re.escape(question.response)}"
    return Verdict(
        right=re.search(answer, text) is not None,
        polite=bool(manner),
        rude=any(m.strip() in text for m in RUDE),
        finished=ended and text.endswith(ENDINGS),
        extra_words=max(0, len(text.split()) - allowed),
    )


def question_of(prompt: str) -> Question | None:
    """Return the embedded question that asks this; None: there is none."""
    return _by_prompt().get(prompt)


def question_alone(prompt: str, *before: object) -> Question | None:
    """Return the embedded question that a prompt asks, if nothing stands before it.

    A system text, an opening or earlier turns may ask for another reply than the labeller likes.
    """
    return None if any(before) else question_of(prompt)


@cache
def _by_prompt() -> dict[str, Question]:
    return {question.prompt: question for question in questions()}


def ranking(golds: Sequence[float], noise: float, seed: int, prompt: str) -> list[int]:
    """Return the rank of each reply to a prompt, 1 is best, as a noisy labeller gives it.

    Args:
        golds: of the replies.
        noise: the scale of the Gumbel noise; 0: none, and equal golds are ties.
        seed: of the labeller.
        prompt: with the seed decides what is drawn.
    """
    values = np.asarray(golds, dtype=np.float64)
    if noise:
        drawn = np.random.default_rng([seed, prompt_hash(prompt)]).gumbel(size=len(values))
        values = values + noise * drawn
    return [1 + int((values > value).sum()) for value in values]


def ceiling(golds: Sequence[float], noise: float) -> list[float]:
    """Return for each pair of replies how often the labeller prefers the better one.

    Their mean is the best accuracy that a model of this labeller can have.
    """
    values = np.asarray(golds, dtype=np.float64)
    one, other = np.triu_indices(len(values), 1)
    gaps = np.abs(values[one] - values[other])
    if not noise:
        return np.where(gaps > 0, 1.0, 0.5).tolist()
    return (1 / (1 + np.exp(-gaps / noise))).tolist()
