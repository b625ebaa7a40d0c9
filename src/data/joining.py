"""Single-turn rows become conversations, so that a model learns to answer a second question.

In the chat template a turn follows another directly, so the ids of a conversation are those of its
turns end to end: rows are joined after they are encoded, with their lengths known, one batch of
rows at a time. With a limit of 12 tokens::

    lengths    [3, 7, 5, 9, 4]      all are single turns but the fourth
    drawn      3, 5, 4 | 7          3 + 5 + 4 fit together; 7 remains alone
    examples   9, 12, 7

Only rows of train are joined: validation and test keep the figures of the rows as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from src.data.conversation import Conversation
from src.data.template import Examples

MAX_TURNS = 4  # of a joined conversation, which has 2 turns at least


@dataclass(frozen=True)
class Joining:
    """``share`` of the single-turn rows that are joined; tokens of the result, at most."""

    share: float
    max_length: int

    def __call__(
        self, examples: Examples, prompts: np.ndarray, joinable: np.ndarray
    ) -> tuple[Examples, np.ndarray]:
        """Return the examples, some of them joined, and the hash of each one's first prompt.

        Args:
            examples: of one batch of rows.
            prompts: (examples,) uint64 hashes, which also decide what is drawn.
            joinable: (examples,) bool: single turns.
        """
        rng = np.random.default_rng(prompts.tolist())
        drawn = np.flatnonzero(joinable & (rng.random(len(examples)) < self.share))
        if len(drawn) < 2:
            return examples, prompts
        groups = self._groups(rng.permutation(drawn), examples.lengths, rng)
        alone = np.setdiff1d(np.arange(len(examples)), drawn)
        order = np.concatenate([alone, *groups])
        lasts = np.cumsum([*np.ones(len(alone), dtype=np.int64), *map(len, groups)])
        tokens = _tokens(examples, order)
        ends = np.cumsum(examples.lengths[order])
        return (
            Examples(
                examples.input_ids[tokens],
                examples.supervised[tokens],
                np.concatenate([[0], ends[lasts - 1]]),
            ),
            prompts[order[np.concatenate([[0], lasts[:-1]])]],
        )

    def _groups(
        self, drawn: np.ndarray, lengths: np.ndarray, rng: np.random.Generator
    ) -> list[np.ndarray]:
        """Cut the rows into conversations of 2 to 4; one that does not fit begins the next."""
        groups, start = [], 0
        while start < len(drawn):
            stop = start + int(rng.integers(2, MAX_TURNS, endpoint=True))
            total = np.cumsum(lengths[drawn[start:stop]])
            count = max(1, int(np.searchsorted(total, self.max_length, side="right")))
            groups.append(drawn[start : start + count])
            start += count
        return groups


def is_single_turn(conversation: Conversation) -> bool:
    """Return whether a row is one prompt and one response, with nothing before them."""
    return conversation == Conversation(turns=conversation.turns[:1], family=conversation.family)


def _tokens(examples: Examples, order: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return the indices of the tokens of the examples in `order`."""
    lengths = examples.lengths[order]
    starts = np.repeat(examples.offsets[:-1][order] - (np.cumsum(lengths) - lengths), lengths)
    return starts + np.arange(lengths.sum())
