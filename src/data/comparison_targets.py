"""What is due in a batch of comparisons: the replies of each prompt, and which is better.

Shape letters: N replies, R tokens of all replies, P pairs.

A unit of the blocks is a group: one prompt's replies. Each reply is a document with a copy of the
prompt of its own, so packed replies are what they are alone. A block that holds a group of two,
the second reply better (prompt a b, end token E)::

    input_ids      a  b  c  E | a  b  d  e  E
    position_ids   0  1  2  3 | 0  1  2  3  4
    reply_index       1  2         5  6  7        (R,) flattened: where a reply's token is due
    reply_labels      c  E         d  e  E        (R,) the token that comes next
    owner             0  0         1  1  1        (R,) the reply of each
    last_index              3               8     (N,) flattened: the last token of each reply
    pairs          [[1, 0]]                       (P, 2) the better reply, the worse one
    pair_weight    [1.0]                          (P,) 1 / the pairs of its group
"""

from collections.abc import Sequence
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from src.data.batch import Batch, BatchTargets
from src.data.comparison_corpus import ComparisonCorpus
from src.data.targets import Document
from src.data.template import RESPONSE, Examples


class ComparisonTargets(BatchTargets, total=False):
    """What is due in a batch of comparisons; its numbers of replies count within the batch.

    ``ranks`` and ``group`` (N,) int64: the rank of each reply, 1 is best, equal is a tie; and the
    number of its prompt. ``reply_number`` (N,) int64: which document of the corpus it is, under
    which figures of a reply can be kept.
    """

    reply_index: Tensor
    reply_labels: Tensor
    owner: Tensor
    last_index: Tensor
    ranks: Tensor
    group: Tensor
    reply_number: Tensor
    pairs: Tensor
    pair_weight: Tensor


class ComparisonBatch(Batch, ComparisonTargets):
    """A batch of comparisons; its ``denominator`` is the number of prompts of the global batch."""


class Comparisons:
    """The pairs of each group; a group counts once, whatever its number of replies.

    See ``Targets``. Its corpus is a ``ComparisonCorpus``.
    """

    prompt_weight = 0.0
    whole_units = True  # a cut would change which reply is better

    def count(self, examples: Examples, lengths: np.ndarray) -> np.ndarray:
        """Return 1 for the first reply of each group and 0 for the others (replies,)."""
        return _of(examples).firsts.astype(np.int64)

    def count_prompts(self, examples: Examples, lengths: np.ndarray) -> np.ndarray:
        """Return zeros (replies,)."""
        return np.zeros(len(lengths), dtype=np.int64)

    def collate(self, documents: Sequence[Document], examples: Examples) -> ComparisonTargets:
        """Return the targets of a batch's documents, whose groups are whole and in their order."""
        corpus = _of(examples)
        numbers = np.array([document.number for document in documents], dtype=np.int64)
        ranks = np.asarray(corpus.ranks[numbers], dtype=np.int64)
        group = np.cumsum(corpus.firsts[numbers], dtype=np.int64) - 1
        tokens = [np.flatnonzero(d.supervised[1:] == RESPONSE) for d in documents]
        index = [d.start + due for d, due in zip(documents, tokens, strict=True)]
        labels = [d.input_ids[due + 1] for d, due in zip(documents, tokens, strict=True)]
        pairs, weights = ranked_pairs(ranks, group)
        return {
            "reply_index": _joined(index),
            "reply_labels": _joined(labels),
            "owner": torch.from_numpy(np.repeat(np.arange(len(documents)), list(map(len, tokens)))),
            "last_index": torch.tensor(
                [d.start + len(d.input_ids) - 1 for d in documents], dtype=torch.int64
            ),
            "ranks": torch.from_numpy(ranks),
            "group": torch.from_numpy(group),
            "reply_number": torch.from_numpy(numbers),
            "pairs": torch.from_numpy(pairs),
            "pair_weight": torch.from_numpy(weights),
        }


def ranked_pairs(ranks: np.ndarray, group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs (P, 2) int64 of all groups, better first, and their weights (P,) float32.

    Args:
        ranks: (N,) of each reply, 1 is best.
        group: (N,) its group; those of a group are neighbours.

    Equal ranks make no pair. The weights of a group's pairs add up to 1: InstructGPT's factor of
    1 / (K choose 2), for rankings with ties too (Ouyang et al., arXiv:2203.02155, equation 1).
    """
    pairs, weights = [np.zeros((0, 2), dtype=np.int64)], [np.zeros(0, dtype=np.float32)]
    for _, members in groupby(range(len(ranks)), key=group.__getitem__):
        replies = np.array(list(members))
        better = np.argwhere(ranks[replies][:, None] < ranks[replies][None])
        pairs.append(replies[better])
        weights.append(np.full(len(better), 1 / max(len(better), 1), dtype=np.float32))
    return np.concatenate(pairs), np.concatenate(weights)


def _of(examples: Examples) -> ComparisonCorpus:
    assert isinstance(examples, ComparisonCorpus)
    return examples


def _joined(arrays: Sequence[np.ndarray]) -> Tensor:
    empty = np.zeros(0, dtype=np.int64)
    return torch.from_numpy(np.concatenate([empty, *arrays]).astype(np.int64))
