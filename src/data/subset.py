"""Some of the rows of a split, drawn by chance and always the same.

Which ones depends on the rows alone: not on a run's seed, its batches or its devices. So the runs
of a sweep are compared on the same rows, and a run that goes on is compared with itself. A smaller
subset is the beginning of a larger one, and rows that come or go leave the others where they are.
"""

import numpy as np

from src.data.blocks import Blocks
from src.data.mixture import mixed
from src.data.packing import pack

SEED = 20  # of all runs; changing it changes which rows every bounded figure is of


def subset(blocks: Blocks, num_blocks: int) -> np.ndarray:
    """Return which units (units of the corpus,) bool are in a subset that fills some blocks.

    There is a row of each source in it, so it may fill more blocks than ``num_blocks`` if the
    sources are more. Each source has blocks of its own.

    Args:
        blocks: of the whole split.
        num_blocks: that the subset fills, at most.
    """
    corpus = blocks.corpus
    order, least = _by_chance(blocks)
    ends = np.cumsum(np.minimum(corpus.lengths, blocks.max_length))
    length_of = np.diff(np.concatenate([[0], ends])[corpus.units])
    sources = np.asarray(corpus.sources)[corpus.units[:-1]]

    def fits(number: int) -> bool:
        chosen = order[:number]
        filled = sum(
            pack(length_of[chosen[sources[chosen] == source]], blocks.block_size).num_blocks
            for source in np.unique(sources[chosen])
        )
        return filled <= num_blocks

    tokens = np.cumsum(length_of[order])
    most = int(np.searchsorted(tokens, num_blocks * blocks.block_size, side="right"))
    while least < most:
        middle = (least + most + 1) // 2
        if fits(middle):
            least = middle
        else:
            most = middle - 1
    chosen = np.zeros(len(corpus.units) - 1, dtype=bool)
    chosen[order[:least]] = True
    return chosen


def some_units(blocks: Blocks, number: int) -> np.ndarray:
    """Return which units (units of the corpus,) bool are ``number`` of them by the same chance."""
    order, least = _by_chance(blocks)
    chosen = np.zeros(len(blocks.corpus.units) - 1, dtype=bool)
    chosen[order[: max(number, least)]] = True
    return chosen


def _by_chance(blocks: Blocks) -> tuple[np.ndarray, int]:
    """Return the units in a random order, and how many come first: one of each source."""
    corpus, rows = blocks.corpus, blocks.corpus_units
    firsts = corpus.units[:-1]
    sources = np.asarray(corpus.sources)[firsts]
    order = rows[np.argsort(mixed(np.asarray(corpus.prompts)[firsts], SEED)[rows], kind="stable")]
    _, leading = np.unique(sources[order], return_index=True)
    return np.concatenate([order[np.sort(leading)], np.delete(order, leading)]), len(leading)
