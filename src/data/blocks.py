"""Packed blocks of one split, and the batch: the one interface between data and model.

Shape letters: B blocks, T positions of a block, S supervised positions.

A batch of blocks holds, for two blocks of 6 positions (end token E, padding _)::

    input_ids          a  b  c  E  d  E | e  f  g  E  _  _     (B, T)
    position_ids       0  1  2  3  0  1 | 0  1  2  3  0  1     (B, T)
    cu_seqlens         0           4      6           10   12  document boundaries, flattened
    max_seqlen         4                                       positions of the longest document
    supervised_index      1  2     4      6     8              (S,) flattened: where a label is due
    labels                c  E     E      f     E              (S,) the token that comes next
"""

from dataclasses import dataclass
from functools import cached_property
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor

from src.data.corpus import Corpus
from src.data.packing import Packing, one_per_block, pack

FILLER = -1  # a block that holds only padding; fills up short batches, never supervised
EXAMPLES_AT_A_TIME = 4096  # while labels are counted


class Batch(TypedDict):
    """What the model is trained on.

    ``cu_seqlens`` (documents + 1,) int32 lists the boundaries of all documents in the flattened
    B x T positions, padding being a document of its own; ``max_seqlen`` is the length of the
    longest. ``num_supervised_tokens`` counts the labels of the whole global batch that this
    micro-batch is a part of; ``num_tokens`` the tokens that are not padding, in this micro-batch
    and those that other ranks work on at the same time.
    """

    input_ids: Tensor
    position_ids: Tensor
    cu_seqlens: Tensor
    max_seqlen: int
    supervised_index: Tensor
    labels: Tensor
    num_supervised_tokens: int
    num_tokens: int


@dataclass(frozen=True)
class Blocks:
    """The blocks of one split.

    Over-long examples lose their tail (and so their end token); an example in which nothing is
    left to learn is dropped. Both are counted.
    """

    corpus: Corpus
    packing: Packing  # over `kept`
    kept: np.ndarray  # (examples,) int64 indices into the corpus
    lengths: np.ndarray  # (examples,) tokens of each kept example after cutting
    labels_per_example: np.ndarray  # (examples,)
    block_size: int
    end_id: int
    num_cut: int
    num_without_room: int

    @classmethod
    def build(cls, corpus: Corpus, block_size: int, packing: bool, end_id: int) -> "Blocks":
        """Cut, drop and pack the examples of ``corpus``."""
        lengths = np.minimum(corpus.lengths, block_size)
        labels = _count_labels(corpus, lengths)
        kept = np.flatnonzero(labels)
        return cls(
            corpus=corpus,
            packing=pack(lengths[kept], block_size) if packing else one_per_block(len(kept)),
            kept=kept,
            lengths=lengths[kept],
            labels_per_example=labels[kept],
            block_size=block_size,
            end_id=end_id,
            num_cut=int((corpus.lengths[kept] > block_size).sum()),
            num_without_room=int(len(labels) - len(kept)),
        )

    def __len__(self) -> int:
        return self.packing.num_blocks

    @property
    def num_examples(self) -> int:
        """Examples that are taught."""
        return len(self.kept)

    @property
    def num_tokens(self) -> int:
        """Tokens in all blocks, padding left out."""
        return int(self.lengths.sum())

    @property
    def num_labels(self) -> int:
        """Supervised tokens in all blocks."""
        return int(self.labels_per_example.sum())

    @property
    def utilisation(self) -> float:
        """Share of all positions that hold a token rather than padding."""
        return self.num_tokens / (len(self) * self.block_size) if len(self) else 0.0

    @cached_property
    def labels_per_block(self) -> np.ndarray:
        """Supervised tokens of each block (blocks,)."""
        return self._sum_by_block(self.labels_per_example)

    @cached_property
    def tokens_per_block(self) -> np.ndarray:
        """Tokens of each block, padding left out (blocks,)."""
        return self._sum_by_block(self.lengths)

    def _sum_by_block(self, per_example: np.ndarray) -> np.ndarray:
        running = np.concatenate([[0], np.cumsum(per_example[self.packing.examples])])
        return np.diff(running[self.packing.offsets])

    def batch(self, blocks: np.ndarray, num_supervised_tokens: int) -> Batch:
        """Return the batch of ``blocks`` (B,), whose global batch has so many labels."""
        num_blocks, size = len(blocks), self.block_size
        input_ids = np.full(num_blocks * size, self.end_id, dtype=np.int64)
        position_ids = np.empty(num_blocks * size, dtype=np.int64)
        boundaries, index, labels = [0], [], []
        num_tokens = 0
        for row, block in enumerate(blocks):
            start = row * size
            for example in () if block == FILLER else self.packing[block]:
                length = self.lengths[example]
                source = self.corpus.offsets[self.kept[example]]
                ids = self.corpus.input_ids[source : source + length]
                taught = np.flatnonzero(self.corpus.supervised[source + 1 : source + length])
                input_ids[start : start + length] = ids
                position_ids[start : start + length] = np.arange(length)
                index.append(start + taught)
                labels.append(ids[taught + 1])
                start += length
                boundaries.append(start)
                num_tokens += length
            padding = (row + 1) * size - start
            if padding:
                position_ids[start : start + padding] = np.arange(padding)
                boundaries.append(start + padding)
        cu_seqlens = np.array(boundaries, dtype=np.int32)
        none = [np.zeros(0, dtype=np.int64)]
        return {
            "input_ids": torch.from_numpy(input_ids).view(num_blocks, size),
            "position_ids": torch.from_numpy(position_ids).view(num_blocks, size),
            "cu_seqlens": torch.from_numpy(cu_seqlens),
            "max_seqlen": int(np.diff(cu_seqlens).max()),
            "supervised_index": torch.from_numpy(np.concatenate(index or none)),
            "labels": torch.from_numpy(np.concatenate(labels or none).astype(np.int64)),
            "num_supervised_tokens": int(num_supervised_tokens),
            "num_tokens": int(num_tokens),
        }


def _count_labels(corpus: Corpus, lengths: np.ndarray) -> np.ndarray:
    """Return the labels (examples,) of the first ``lengths`` tokens of each example.

    A label belongs to each supervised token but an example's first. Memory does not grow with the
    number of tokens.
    """
    labels = np.zeros(len(lengths), dtype=np.int64)
    for first in range(0, len(lengths), EXAMPLES_AT_A_TIME):
        part = slice(first, first + EXAMPLES_AT_A_TIME)
        starts = corpus.offsets[:-1][part]
        ends = starts + lengths[part]
        taught = corpus.supervised[starts[0] : ends[-1]]
        running = np.concatenate([[0], np.cumsum(taught, dtype=np.int64)])
        after_first = np.minimum(starts + 1, ends)
        labels[part] = running[ends - starts[0]] - running[after_first - starts[0]]
    return labels
