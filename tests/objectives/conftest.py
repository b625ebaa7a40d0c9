"""Comparisons without a tokenizer: groups of random replies, and the batches they make."""

import numpy as np
import pytest
import torch

from src.data.blocks import Blocks
from src.data.comparison_corpus import ComparisonCorpus, Group
from src.data.comparison_targets import Comparisons
from src.model.scalar import ScalarGPT2
from tests.model.conftest import random_model, tiny_config

END = 96  # of the tiny model's vocabulary


def random_groups(sizes: list[int], seed: int = 0, tied: bool = False) -> list[Group]:
    """Prompts with so many replies each, best first, unless some are ``tied``."""
    rng = np.random.default_rng(seed)
    groups = []
    for size in sizes:
        prompt = rng.integers(0, END, rng.integers(2, 6)).tolist()
        replies = [
            [*prompt, *rng.integers(0, END, rng.integers(1, 9)).tolist(), END] for _ in range(size)
        ]
        ranks = [1, 1, *range(3, size + 1)] if tied else list(range(1, size + 1))
        groups.append(Group(replies, len(prompt), ranks))
    return groups


def blocks_of(groups: list[Group], block_size: int = 64, packing: bool = True) -> Blocks:
    corpus = ComparisonCorpus.of(groups)
    return Blocks.build(
        corpus,
        block_size,
        packing,
        END,
        max_length=64,
        targets=Comparisons(),
        units=corpus.units,
    )


def batch_of(groups: list[Group], **values):
    """All groups as one batch."""
    blocks = blocks_of(groups, **values)
    return blocks.batch(np.arange(len(blocks)), float(len(groups)))


@pytest.fixture
def scalar() -> ScalarGPT2:
    torch.manual_seed(0)
    return ScalarGPT2.of(random_model(tiny_config()))
