"""Lengths become blocks: best-fit-decreasing bin packing over a histogram of lengths.

Pure numpy, no tokens. A six-example case, block size 10::

    lengths        [3, 7, 5, 4, 10, 1]
    longest first   10 | 7  3 | 5  4  1      7 leaves room for 3; 5 and 4 leave room for 1
    blocks         [[4], [1, 0], [2, 3, 5]]   utilisation 30 / 30

Working on counts instead of items makes it fast: all examples of one length that go into blocks
with one amount of room left are placed in a single operation. Best fit leaves small gaps where
many examples are of like length, so the blocks with the largest gaps are then packed once more,
each closed by one or two examples that fill it exactly. Which of the examples of one length goes
where is drawn at random, for neighbours in a file are often alike.

Source: D. S. Johnson, "Near-optimal bin packing algorithms" (1973), best-fit decreasing; the
histogram is that of M. M. Krell et al., arXiv:2107.02027.
"""

import hashlib
from dataclasses import dataclass

import numpy as np

MAX_REPACKED = 1024  # blocks packed a second time: bounds the work to some 30 ms


@dataclass(frozen=True)
class Packing:
    """Blocks as lists of examples: block b holds ``examples[offsets[b]:offsets[b + 1]]``.

    ``offsets`` (num_blocks + 1,) and ``examples`` (num_examples,), both int64.
    """

    offsets: np.ndarray
    examples: np.ndarray

    @property
    def checksum(self) -> str:
        """What tells these blocks from others (SHA-256)."""
        return hashlib.sha256(self.offsets.tobytes() + self.examples.tobytes()).hexdigest()

    @property
    def num_blocks(self) -> int:
        """How many blocks there are."""
        return len(self.offsets) - 1

    def __getitem__(self, block: int) -> np.ndarray:
        return self.examples[self.offsets[block] : self.offsets[block + 1]]


def pack(lengths: np.ndarray, block_size: int) -> Packing:
    """Pack examples of ``lengths`` (N,) into as few blocks of ``block_size`` as best-fit finds.

    Every example lies in exactly one block, whole. The same lengths give the same blocks: the draw
    among equal lengths has a seed of its own (numpy may change what a seed draws).
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    assert lengths.size == 0 or (lengths.min() >= 1 and lengths.max() <= block_size)
    blocks, counts, num_blocks = _assign(np.bincount(lengths, minlength=1), block_size)

    drawn = np.random.default_rng(0).permutation(len(lengths))
    longest_first = drawn[np.argsort(-lengths[drawn], kind="stable")]
    block_of = np.repeat(blocks, counts)  # of each example, longest first
    by_block = np.argsort(block_of, kind="stable")
    offsets = np.zeros(num_blocks + 1, dtype=np.int64)
    np.cumsum(np.bincount(block_of, minlength=num_blocks), out=offsets[1:])
    return _repack_gaps(Packing(offsets, longest_first[by_block]), lengths, block_size)


def one_per_block(num_examples: int) -> Packing:
    """No packing: each example in a block of its own, as the article ran."""
    return Packing(np.arange(num_examples + 1), np.arange(num_examples))


def _assign(histogram: np.ndarray, block_size: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Best-fit decreasing on ``histogram`` (counts by length).

    Returns (blocks, counts, num_blocks): the next ``counts[i]`` examples, longest first, go into
    block ``blocks[i]``.
    """
    blocks: list[np.ndarray] = [np.zeros(0, dtype=np.int64)]
    counts: list[np.ndarray] = [np.zeros(0, dtype=np.int64)]
    num_blocks = 0
    open_blocks: dict[int, np.ndarray] = {}  # room left -> blocks with that room
    rooms = 0  # bit r is set where open_blocks[r] exists: the best fit is one bit operation

    def put(chosen: np.ndarray, each: int, room: int) -> None:
        nonlocal rooms
        blocks.append(chosen)
        counts.append(np.full(len(chosen), each))
        if room:
            before = open_blocks.get(room)
            open_blocks[room] = chosen if before is None else np.concatenate([before, chosen])
            rooms |= 1 << room

    for length in np.flatnonzero(histogram)[::-1].tolist():
        left = int(histogram[length])
        while left:
            fitting = rooms >> length
            if fitting:
                room = length + (fitting & -fitting).bit_length() - 1
                available = open_blocks[room]
            else:
                room = block_size
                each = block_size // length
                available = np.arange(num_blocks, num_blocks + -(-left // each))
                num_blocks += len(available)
            # A block that took one example of this length is now the best fit for the next.
            each = room // length
            full = min(len(available), left // each)
            used = full
            if full:
                put(available[:full], each, room - each * length)
            left -= full * each
            if left and full < len(available):
                put(available[full : full + 1], left, room - left * length)
                used += 1
                left = 0
            if fitting:
                if used < len(available):
                    open_blocks[room] = available[used:]
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
    dissolved = np.sort(largest_first[gaps[largest_first] > 0])
    if gaps[dissolved].sum() < block_size:  # not even one block could be saved
        return packing
    pool = np.concatenate([packing[block] for block in dissolved])
    by_length = pool[np.argsort(lengths[pool], kind="stable")]
    histogram = np.bincount(lengths[pool], minlength=block_size + 1)
    refilled = _fill_exactly(histogram.tolist(), block_size)
    if len(refilled) >= len(dissolved):
        return packing
    # The next unused example of each length, in the order in which they lie in `by_length`.
    next_of = (np.cumsum(histogram) - histogram).tolist()
    order = []
    for block in refilled:
        for length in block:
            order.append(next_of[length])
            next_of[length] += 1
    kept = np.setdiff1d(np.arange(packing.num_blocks), dissolved)
    sizes = np.concatenate([np.diff(packing.offsets)[kept], [len(block) for block in refilled]])
    examples = np.concatenate([*(packing[block] for block in kept), by_length[order]])
    return Packing(np.concatenate([[0], np.cumsum(sizes)]), examples)


def _fill_exactly(counts: list[int], block_size: int) -> list[list[int]]:
    """Fill one block after another from ``counts`` (by length); return each block's lengths.

    The longest example that fits is taken until one example, or two, fill the rest exactly. The
    lengths at hand are the bits of one integer, so that both questions are single operations.
    """
    available = sum(1 << length for length, count in enumerate(counts) if count)
    mirrored = sum(1 << (block_size - length) for length, count in enumerate(counts) if count)
    left = sum(counts)
    blocks = []
    while left:
        block: list[int] = []
        room = block_size
        while room:
            up_to_room = available & ((1 << (room + 1)) - 1)
            if not up_to_room:
                break
            longest = up_to_room.bit_length() - 1
            chosen = [longest]
            if longest < room <= 2 * longest:
                # Bit a is set where lengths a and room - a are both at hand.
                pairs = available & (mirrored >> (block_size - room)) & ((1 << room) - 1)
                shorter = pairs & ((1 << (room + 1) // 2) - 1)  # a < room - a
                if shorter:
                    a = shorter.bit_length() - 1
                    chosen = [room - a, a]
            for length in chosen:
                counts[length] -= 1
                if not counts[length]:
                    available &= ~(1 << length)
                    mirrored &= ~(1 << (block_size - length))
                left -= 1
                room -= length
            block += chosen
        blocks.append(block)
    return blocks
