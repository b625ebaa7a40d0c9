"""How much of each source is in training: its weight decides, and the shares say."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from src.data.blocks import Blocks
from src.data.corpus import Corpus


@dataclass(frozen=True)
class Share:
    """What one source brings to the blocks of a split, its rows as often as they are in them."""

    label: str
    weight: float
    rows: int
    tokens: int
    supervised_tokens: int


def shares(blocks: Blocks, labels: Sequence[str], weights: Sequence[float]) -> list[Share]:
    """Return the share of each source in ``blocks``."""
    origin = np.asarray(blocks.corpus.sources)[blocks.corpus_index]
    is_first = np.isin(blocks.corpus_index, blocks.corpus.units[:-1])  # of its row
    sums = [
        np.bincount(origin, weights=of_each, minlength=len(labels)).astype(np.int64).tolist()
        for of_each in (is_first, blocks.lengths, blocks.targets_per_document)
    ]
    return [Share(*values) for values in zip(labels, weights, *sums, strict=True)]


def copies(corpus: Corpus, weights: Sequence[float], seed: int) -> np.ndarray | None:
    """Return how often each unit (units,) is in an epoch; None: each once.

    A weight of 2.5 is twice, and a third time for half of the rows: those whose prompt's hash,
    mixed with ``seed``, is below the half. Which ones does not change when other rows come or go.
    """
    if all(weight == 1 for weight in weights):
        return None
    firsts = corpus.units[:-1]
    of_each = np.asarray(weights, dtype=np.float64)[corpus.sources[firsts]]
    whole = np.floor(of_each)
    share = mixed(np.asarray(corpus.prompts)[firsts], seed) / 2.0**64
    return (whole + (share < of_each - whole)).astype(np.int64)


def mixed(prompts: np.ndarray, seed: int) -> np.ndarray:
    """Return numbers (N,) uint64 that look drawn by chance from hashes, each always the same.

    Equal hashes get different numbers, by how many of them come before. The mixing is SplitMix64's
    (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
    """
    order = np.argsort(prompts, kind="stable")
    ordered = prompts[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    sizes = np.diff(np.append(starts, len(prompts)))
    before = np.empty(len(prompts), dtype=np.uint64)
    before[order] = np.arange(len(prompts)) - np.repeat(starts, sizes)
    with np.errstate(over="ignore"):
        mixed = prompts.astype(np.uint64) ^ np.uint64(seed)
        mixed += (before + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))
