"""Packed blocks of one split.

A unit is what must lie in one block: one document, or several that are compared with each other.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from src.data.batch import Batch
from src.data.corpus import Corpus
from src.data.packing import Packing, one_per_block, pack
from src.data.targets import Document, Labels, Targets
from src.errors import UserError

MAX_BLOCK_LENGTHS = 64  # of a block, in the model's positions: examples are no longer than these
FILLER = -1  # a block of padding alone, which fills up short batches


def choose_block_size(block_size: int | None, num_positions: int) -> int:
    """Return the positions of a block: as asked for, or as many as the model has.

    Raises:
        UserError: they are far more than those of the model.
    """
    most = MAX_BLOCK_LENGTHS * num_positions
    if (block_size or 0) > most:
        raise UserError(
            f"data.block_size={block_size} is more than {MAX_BLOCK_LENGTHS} times the "
            f"{num_positions} positions of the model: at most {most}"
        )
    return block_size or num_positions


@dataclass(frozen=True)
class Blocks:
    """The blocks of one split.

    A document that is too long loses its tail (and so its end token), unless its targets want
    ``whole_units``: then its unit is dropped. A unit that then has no target, or is longer than a
    block, is dropped. Both are counted.
    """

    corpus: Corpus
    packing: Packing  # of units
    units: np.ndarray  # (units + 1,) unit u is the documents units[u] to units[u + 1]
    corpus_index: np.ndarray  # (documents,) int64: the number of each document in the corpus
    lengths: np.ndarray  # (documents,) tokens of each document after cutting
    targets_per_document: np.ndarray  # (documents,)
    prompts_per_document: np.ndarray  # (documents,) tokens of prompts that are scored
    targets: Targets
    block_size: int
    max_length: int  # of a document: what the model has positions for
    end_id: int
    num_cut: int
    num_without_room: int
    isolate_documents: bool = True  # each attends only to itself
    reset_positions: bool = True  # they start from 0 in each document

    @classmethod
    def build(
        cls,
        corpus: Corpus,
        block_size: int,
        packing: bool,
        end_id: int,
        *,
        max_length: int | None = None,
        targets: Targets | None = None,
        units: np.ndarray | None = None,
        copies: np.ndarray | None = None,
    ) -> "Blocks":
        """Cut, drop and pack the documents of ``corpus``.

        Args:
            corpus: the documents.
            block_size: positions of a block.
            packing: whether a block holds as many units as fit, or one.
            end_id: the token of padding.
            max_length: of a document; None: a block.
            targets: what is due; None: labels.
            units: (units + 1,) offsets into the documents; None: those of the corpus.
            copies: (units,) how often each unit is in the blocks; None: once.
        """
        max_length = min(max_length or block_size, block_size)
        targets = targets or Labels()
        units = corpus.units if units is None else units
        lengths = np.minimum(corpus.lengths, max_length)
        counts = targets.count(corpus, lengths)
        unit_lengths = _sums(lengths, units)
        fits = unit_lengths <= block_size
        if targets.whole_units:
            fits &= _sums(corpus.lengths > max_length, units) == 0
        usable = np.flatnonzero((_sums(counts, units) > 0) & fits)
        num_usable = len(usable)
        if copies is not None:
            usable = np.repeat(usable, copies[usable])
        sizes = np.diff(units)[usable]
        index = _ranges(units[usable], sizes)
        return cls(
            corpus=corpus,
            packing=pack(unit_lengths[usable], block_size)
            if packing
            else one_per_block(len(usable)),
            units=np.concatenate([[0], np.cumsum(sizes)]),
            corpus_index=index,
            lengths=lengths[index],
            targets_per_document=counts[index],
            prompts_per_document=targets.count_prompts(corpus, lengths)[index],
            targets=targets,
            block_size=block_size,
            max_length=max_length,
            end_id=end_id,
            num_cut=int((corpus.lengths[index] > max_length).sum()),
            num_without_room=len(units) - 1 - num_usable,
        )

    def read_as(self, isolate_documents: bool, reset_positions: bool) -> "Blocks":
        """Return the same blocks, read otherwise.

        Args:
            isolate_documents: whether a document attends only to itself, or to all of its block.
            reset_positions: whether positions start from 0 in each document, or in each block.

        Raises:
            UserError: positions that run through a block are more than the model has.
        """
        if not reset_positions and self.block_size > self.max_length:
            raise UserError(
                f"data.reset_positions=false: a block of {self.block_size} needs as many positions "
                f"and the model has {self.max_length}: set data.block_size={self.max_length}"
            )
        return replace(self, isolate_documents=isolate_documents, reset_positions=reset_positions)

    def __len__(self) -> int:
        return self.packing.num_blocks

    @property
    def num_examples(self) -> int:
        """Documents in all blocks."""
        return len(self.corpus_index)

    @property
    def num_tokens(self) -> int:
        """Tokens in all blocks, without padding."""
        return int(self.lengths.sum())

    @property
    def num_targets(self) -> int:
        """Targets in all blocks: for labels, the supervised tokens."""
        return int(self.targets_per_document.sum())

    @property
    def num_prompt_targets(self) -> int:
        """Tokens of prompts, in all blocks, that are scored."""
        return int(self.prompts_per_document.sum())

    @property
    def attended_length(self) -> float:
        """Positions that attend to one another, in the mean over those that hold a token."""
        if not self.isolate_documents:
            return float(self.block_size)
        lengths = self.lengths.astype(float)
        return float((lengths**2).sum() / max(1.0, lengths.sum()))

    @property
    def utilisation(self) -> float:
        """Share of all positions that hold a token rather than padding."""
        return self.num_tokens / (len(self) * self.block_size) if len(self) else 0.0

    @cached_property
    def targets_per_block(self) -> np.ndarray:
        """Targets of each block (blocks,)."""
        return self._sum_by_block(self.targets_per_document)

    @cached_property
    def weight_per_block(self) -> np.ndarray:
        """What each block adds to the denominator of the loss (blocks,)."""
        if not self.targets.prompt_weight:
            return self.targets_per_block
        prompts = self._sum_by_block(self.prompts_per_document)
        return self.targets_per_block + self.targets.prompt_weight * prompts

    @cached_property
    def tokens_per_block(self) -> np.ndarray:
        """Tokens of each block, without padding (blocks,)."""
        return self._sum_by_block(self.lengths)

    def _sum_by_block(self, per_document: np.ndarray) -> np.ndarray:
        per_unit = _sums(per_document, self.units)
        return _sums(per_unit[self.packing.examples], self.packing.offsets)

    @cached_property
    def corpus_units(self) -> np.ndarray:
        """The numbers of the units of the corpus that are in the blocks, each once."""
        units = np.searchsorted(self.corpus.units, self.corpus_index, side="right") - 1
        return np.unique(units)

    def documents(self, block: int) -> np.ndarray:
        """Return the numbers (documents,) of a block's documents, in their order."""
        if block == FILLER:
            return np.zeros(0, dtype=np.int64)
        units = self.packing[block]
        return _ranges(self.units[units], np.diff(self.units)[units])

    def batch(self, blocks: np.ndarray, denominator: float) -> Batch:
        """Return the batch of ``blocks`` (B,); ``denominator``: of the global batch's loss."""
        num_blocks, size = len(blocks), self.block_size
        input_ids = np.full(num_blocks * size, self.end_id, dtype=np.int64)
        boundaries, documents = [0], []
        for row, block in enumerate(blocks):
            start, end = row * size, (row + 1) * size
            for number in self.documents(block):
                document = self._document(number, start)
                documents.append(document)
                start += len(document.input_ids)
                input_ids[document.start : start] = document.input_ids
                boundaries.append(start)
            if start < end:  # padding, in pieces that the model has positions for
                boundaries += [*range(start + self.max_length, end, self.max_length), end]
        whole = np.arange(num_blocks + 1, dtype=np.int32) * size  # the boundaries of the blocks
        own = np.array(boundaries, dtype=np.int32)
        cu_seqlens = own if self.isolate_documents else whole
        starts = own if self.reset_positions else whole
        position_ids = np.arange(num_blocks * size) - np.repeat(starts[:-1], np.diff(starts))
        return {
            "input_ids": torch.from_numpy(input_ids).view(num_blocks, size),
            "position_ids": torch.from_numpy(position_ids).view(num_blocks, size),
            "cu_seqlens": torch.from_numpy(cu_seqlens),
            "max_seqlen": int(np.diff(cu_seqlens).max()),
            **self.targets.collate(documents, self.corpus),
            "denominator": denominator,
            "num_tokens": sum(len(document.input_ids) for document in documents),
        }

    def _document(self, number: int, start: int) -> Document:
        row = int(self.corpus_index[number])
        first = self.corpus.offsets[row]
        tokens = slice(first, first + self.lengths[number])
        return Document(row, start, self.corpus.input_ids[tokens], self.corpus.supervised[tokens])


def _ranges(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return the ranges of ``sizes`` (N,) integers from ``starts`` (N,), end to end."""
    return np.arange(sizes.sum()) + np.repeat(starts - (np.cumsum(sizes) - sizes), sizes)


def _sums(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return the sums (N,) of ``values`` between ``offsets`` (N + 1,)."""
    return np.diff(np.concatenate([[0], np.cumsum(values)])[offsets])
