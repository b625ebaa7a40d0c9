from bisect import bisect_left, insort

import numpy as np
import pytest

from src.data.packing import Packing, one_per_block, pack


def blocks(packing: Packing) -> list[list[int]]:
    return [packing[block].tolist() for block in range(packing.num_blocks)]


def check(packing: Packing, lengths: np.ndarray, block_size: int) -> None:
    """Every example lies in exactly one block, whole; no block is empty."""
    assert sorted(packing.examples.tolist()) == list(range(len(lengths)))
    assert packing.offsets[0] == 0
    assert packing.offsets[-1] == len(lengths)
    assert (np.diff(packing.offsets) > 0).all()
    for block in blocks(packing):
        assert lengths[block].sum() <= block_size


def best_fit_decreasing(lengths: np.ndarray, block_size: int) -> int:
    """The textbook's algorithm, an item at a time; returns the number of blocks."""
    rooms: list[int] = []  # of each block, ascending
    for length in sorted(lengths.tolist(), reverse=True):
        best = bisect_left(rooms, length)
        room = rooms.pop(best) if best < len(rooms) else block_size
        insort(rooms, room - length)
    return len(rooms)


def test_the_worked_example_of_the_docstring():
    packing = pack(np.array([3, 7, 5, 4, 10, 1]), block_size=10)
    assert blocks(packing) == [[4], [1, 0], [2, 3, 5]]


def test_like_lengths_share_blocks():
    packing = pack(np.array([4, 4, 4, 4, 4]), 10)
    assert [len(block) for block in blocks(packing)] == [2, 2, 1]


def test_neighbours_in_a_file_are_spread_over_the_blocks():
    """Ten topics of a thousand rows each, one after another, all of one length: ten in a block."""
    packing = pack(np.full(10_000, 10), 100)
    topics = packing.examples.reshape(1000, 10) // 1000
    num_topics = np.mean([len(set(block)) for block in topics.tolist()])
    assert num_topics == pytest.approx(10 * (1 - 0.9**10), rel=0.05)  # as if drawn one by one


def test_gaps_are_packed_a_second_time():
    """Best fit decreasing makes 5 4 | 4 3 2 | 2, but 5 3 2 | 4 4 2 leaves no gap."""
    lengths = np.array([5, 4, 4, 3, 2, 2])
    assert best_fit_decreasing(lengths, 10) == 3
    packing = pack(lengths, 10)
    check(packing, lengths, 10)
    assert packing.num_blocks == 2


def test_a_second_packing_that_needs_more_blocks_is_not_kept():
    """One of the rare cases where filling blocks exactly costs a block."""
    counts = [4, 1, 2, 1, 2, 0, 2, 9, 4, 4, 3, 1, 7, 2, 6, 1, 4, 3, 2, 3, 5]
    lengths = np.repeat(np.arange(27, 48), counts)
    assert pack(lengths, 100).num_blocks == best_fit_decreasing(lengths, 100) == 28


def test_any_lengths_are_packed_whole_and_never_worse_than_by_best_fit():
    for seed in range(300):
        rng = np.random.default_rng(seed)
        block_size = int(rng.integers(1, 65))
        shortest = int(rng.integers(1, block_size + 1))
        lengths = rng.integers(shortest, block_size + 1, size=int(rng.integers(0, 200)))
        packing = pack(lengths, block_size)
        check(packing, lengths, block_size)
        assert packing.num_blocks <= best_fit_decreasing(lengths, block_size), seed


@pytest.mark.parametrize("seed", range(3))
def test_many_lengths_with_many_gaps(seed):
    """Enough blocks that only the largest gaps are packed again."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(30, 60, size=9000)
    packing = pack(lengths, 128)
    check(packing, lengths, 128)
    assert packing.num_blocks <= best_fit_decreasing(lengths, 128)


def test_lengths_like_the_articles_fill_the_blocks():
    """258,042 examples of mean 91 and standard deviation 72: at least 99.9% of all positions."""
    rng = np.random.default_rng(0)
    variance = np.log(1 + (72 / 91) ** 2)
    lengths = rng.lognormal(np.log(91) - variance / 2, np.sqrt(variance), 258_042)
    lengths = np.clip(lengths.astype(np.int64), 1, 1024)
    packing = pack(lengths, 1024)
    filled = np.add.reduceat(lengths[packing.examples], packing.offsets[:-1])
    assert (np.bincount(packing.examples, minlength=len(lengths)) == 1).all()
    assert filled.max() <= 1024
    assert lengths.sum() / (packing.num_blocks * 1024) >= 0.999


def test_the_same_lengths_give_the_same_blocks():
    lengths = np.random.default_rng(1).integers(1, 100, size=2000)
    first, second = pack(lengths, 128), pack(lengths.astype(np.int32), 128)
    assert np.array_equal(first.examples, second.examples)
    assert np.array_equal(first.offsets, second.offsets)


def test_nothing_packs_into_nothing():
    for packing in (pack(np.array([], dtype=np.int64), 8), one_per_block(0)):
        assert packing.num_blocks == 0
        assert len(packing.examples) == 0


def test_an_example_that_fills_its_block_lies_alone():
    assert sorted(blocks(pack(np.array([8, 8]), 8))) == [[0], [1]]


def test_a_length_that_fits_no_block_is_our_mistake():
    for length in (0, 9):
        with pytest.raises(AssertionError):
            pack(np.array([length]), 8)


def test_without_packing_each_example_has_its_block():
    assert blocks(one_per_block(3)) == [[0], [1], [2]]
