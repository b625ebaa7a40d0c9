"""The replies of comparisons, tokenised: a document for each reply, one group after another."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from src.data.comparison import Comparison
from src.data.corpus import Columns, Corpus, DTypes
from src.data.template import Examples


class Group(NamedTuple):
    """The replies to one prompt as ids: each the prompt, the reply and, if it ended, its end token.

    Args:
        replies: (L,) each, prompt included.
        num_context: tokens of the prompt.
        ranks: of each reply, 1 is best, equal is a tie.
    """

    replies: Sequence[Sequence[int]]
    num_context: int
    ranks: Sequence[int]


@dataclass(frozen=True)
class ComparisonCorpus(Corpus):
    """A corpus whose documents are replies.

    ``ranks`` (replies,) int: 1 is best, equal is a tie. ``firsts`` (replies,) bool: whether a group
    begins here. Supervised are the tokens of the reply, its end token included.
    """

    kind: ClassVar[str] = "comparisons 3"
    columns: ClassVar[DTypes] = {**Corpus.columns, "ranks": np.int32, "firsts": np.bool_}

    ranks: np.ndarray
    firsts: np.ndarray

    @property
    def units(self) -> np.ndarray:
        """Where each group starts (groups + 1,), and the number of replies."""
        return np.append(np.flatnonzero(self.firsts), len(self))

    @classmethod
    def values(cls, rows: Sequence[Comparison]) -> Columns:
        """Return ranks, firsts and whether each reply ended (replies,)."""
        firsts = np.concatenate([np.arange(len(row.replies)) == 0 for row in rows])
        return {
            "ranks": np.array([rank for row in rows for rank in row.ranks]),
            "firsts": firsts,
            "ended": np.array([ended for row in rows for ended in row.ended]),
        }

    @classmethod
    def finish(cls, examples: Examples, values: Columns) -> Examples:
        """Return the replies without the end token of those that were cut off."""
        return examples.without(examples.offsets[1:][~values["ended"]] - 1)

    @classmethod
    def of(cls, groups: Sequence[Group]) -> "ComparisonCorpus":
        """Return the corpus of groups that are in memory."""
        replies = [np.array(reply) for group in groups for reply in group.replies]
        contexts = np.repeat([g.num_context for g in groups], [len(g.replies) for g in groups])
        supervised = [np.arange(len(r)) >= n for r, n in zip(replies, contexts, strict=True)]
        sizes = [len(group.replies) for group in groups]
        number = np.repeat(np.arange(len(groups)), sizes)
        return cls(
            input_ids=np.concatenate(replies).astype(np.int64),
            supervised=np.concatenate(supervised),
            offsets=np.concatenate([[0], np.cumsum([len(reply) for reply in replies])]),
            prompts=number.astype(np.uint64),
            sources=np.zeros(len(number), dtype=np.uint16),
            ranks=np.concatenate([np.asarray(group.ranks, dtype=np.int64) for group in groups]),
            firsts=np.diff(number, prepend=-1) > 0,
        )
