"""Lengths become blocks: best-fit-decreasing bin packing over a histogram of lengths.

Pure numpy, no tokens. A six-example case, block size 10::

    lengths        [3, 7, 5, 4, 10, 1]
    longest first   10 | 7  3 | 5  4  1      7 leaves room for 3; 5 and 4 leave room for 1
    blocks         [[4], [1, 0], [2, 3, 5]]   utilisation 30 / 30

It is fast because it works on counts: one operation places all examples of one length that go into
blocks with the same room. Best fit leaves small gaps where many examples have similar lengths, so
the blocks with the largest gaps are packed a second time, each closed by one or two examples that
fill it exactly. Examples of the same length are placed in random order, for neighbours in a file
are often alike.

Source: D. S. Johnson, "Near-optimal bin packing algorithms" (1973), best-fit decreasing; the
histogram is that of M. M. Krell et al., arXiv:2107.02027.
"""

import hashlib
from dataclasses import dataclass

import numpy as np

MAX_REPACKED = 1024  # blocks packed a second time, in at most some 30 ms


@dataclass(frozen=True)
class Packing:
    """Blocks as lists of examples: block b holds ``examples[offsets[b]:offsets[b + 1]]``.

    ``offsets`` (num_blocks + 1,) and ``examples`` (num_examples,), both int64.
    """

    offsets: np.ndarray
    examples: np.ndarray

    @property
    def checksum(self) -> str:
        """The SHA-256 of these blocks."""
        return hashlib.sha256(self.offsets.tobytes() + self.examples.tobytes()).hexdigest()

    @property
    def num_blocks(self) -> int:
        """The number of blocks."""
        return len(self.offsets) - 1

    def __getitem__(self, block: int) -> np.ndarray:
        return self.examples[self.offsets[block] : self.offsets[block + 1]]


def pack(lengths: np.ndarray, block_size: int) -> Packing:
    """Pack examples of ``lengths`` (N,) into as few blocks of ``block_size`` as best-fit finds.

    Every example lies in exactly one block. The same lengths give the same blocks, as long as numpy
    does not change what a seed draws.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    assert lengths.size == 0 or (lengths.min() >= 1 and lengths.max() <= block_size)
    blocks, counts, num_blocks = _assign(np.bincount(lengths, minlength=1), block_size)

    order = np.random.default_rng(0).permutation(len(lengths))
    longest_first = order[np.argsort(-lengths[order], kind="stable")]
    block_of = np.repeat(blocks, counts)  # of each example, longest first
    by_block = np.argsort(block_of, kind="stable")
    offsets = np.zeros(num_blocks + 1, dtype=np.int64)
    np.cumsum(np.bincount(block_of, minlength=num_blocks), out=offsets[1:])
    return _repack_gaps(Packing(offsets, longest_first[by_block]), lengths, block_size)


def one_per_block(num_examples: int) -> Packing:
    """Return one block for each example, without packing, as in the article."""
    return Packing(np.arange(num_examples + 1), np.arange(num_examples))


def _assign(histogram: np.ndarray, block_size: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Best-fit decreasing on ``histogram`` (counts by length).

    Returns (blocks, counts, num_blocks): the next ``counts[i]`` examples, longest first, go into
    block ``blocks[i]``.
    """
    blocks: list[np.ndarray] = [np.zeros(0, dtype=np.int64)]
    counts: list[np.ndarray] = [np.zeros(0, dtype=np.int64)]
    num_blocks = 0
    open_blocks: dict[int, np.ndarray] = {}  # room -> blocks with that room
    rooms = 0  # bit r is set where open_blocks[r] exists: the best fit is one bit operation

    def put(numbers: np.ndarray, each: int, room: int) -> None:
        nonlocal rooms
        blocks.append(numbers)
        counts.append(np.full(len(numbers), each))
        if room:
            others = open_blocks.get(room)
            open_blocks[room] = numbers if others is None else np.concatenate([others, numbers])
            rooms |= 1 << room

    for length in np.flatnonzero(histogram)[::-1].tolist():
        count = int(histogram[length])
        while count:
            fitting = rooms >> length
            if fitting:
                room = length + (fitting & -fitting).bit_length() - 1
                available = open_blocks[room]
            else:
                room = block_size
                each = block_size // length
                available = np.arange(num_blocks, num_blocks + -(-count // each))
                num_blocks += len(available)
            # A block that took one example of this length is now the best fit for the next.
            each = room // length
            full = end = min(len(available), count // each)
            if full:
                put(available[:full], each, room - each * length)
            count -= full * each
            if count and full < len(available):
                put(available[full : full + 1], count, room - count * length)
                end += 1
                count = 0
            if fitting:
                if end < len(available):
                    open_blocks[room] = available[end:]
                else:
                    del open_blocks[room]
                    rooms &= ~(1 << room)
    return np.concatenate(blocks), np.concatenate(counts), num_blocks


def _repack_gaps(packing: Packing, lengths: np.ndarray, block_size: int) -> Packing:
    """Pack the blocks with the largest gaps again; keep the result if it needs fewer blocks."""
    if packing.num_blocks < 2:
        return packing
    gaps = block_size - np.add.reduceat(lengths[packing.examples], packing.offsets[:-1])
    largest_first = np.argsort(-gaps, kind="stable")[:MAX_REPACKED]
    old = np.sort(largest_first[gaps[largest_first] > 0])
    if gaps[old].sum() < block_size:  # this cannot save a block
        return packing
    pool = np.concatenate([packing[block] for block in old])
    by_length = pool[np.argsort(lengths[pool], kind="stable")]
    histogram = np.bincount(lengths[pool], minlength=block_size + 1)
    new = _fill_exactly(histogram.tolist(), block_size)
    if len(new) >= len(old):
        return packing
    next_of = (np.cumsum(histogram) - histogram).tolist()  # by length: its next index in by_length
    order = []
    for block in new:
        for length in block:
            order.append(next_of[length])
            next_of[length] += 1
    others = np.setdiff1d(np.arange(packing.num_blocks), old)
    sizes = np.concatenate([np.diff(packing.offsets)[others], [len(block) for block in new]])
    examples = np.concatenate([*(packing[block] for block in others), by_length[order]])
    return Packing(np.concatenate([[0], np.cumsum(sizes)]), examples)


def _fill_exactly(counts: list[int], block_size: int) -> list[list[int]]:
    """Fill one block after another from ``counts`` (by length); return each block's lengths.

    The longest example that fits is next, until one or two examples fill the rest exactly. The
    available lengths are the bits of one integer, so each search is a single operation.
    """
    available = sum(1 << length for length, count in enumerate(counts) if count)
    mirrored = sum(1 << (block_size - length) for length, count in enumerate(counts) if count)
    num_examples = sum(counts)
    blocks = []
    while num_examples:
        block: list[int] = []
        room = block_size
        while room:
            up_to_room = available & ((1 << (room + 1)) - 1)
            if not up_to_room:
                break
            longest = up_to_room.bit_length() - 1
            lengths = [longest]
            if longest < room <= 2 * longest:
                # Bit a is set where lengths a and room - a are both available.
                pairs = available & (mirrored >> (block_size - room)) & ((1 << room) - 1)
                shorter = pairs & ((1 << (room + 1) // 2) - 1)  # a < room - a
                if shorter:
                    a = shorter.bit_length() - 1
                    lengths = [room - a, a]
            for length in lengths:
                counts[length] -= 1
                if not counts[length]:
                    available &= ~(1 << length)
                    mirrored &= ~(1 << (block_size - length))
                num_examples -= 1
                room -= length
            block += lengths
        blocks.append(block)
    return blocks
