from collections.abc import Sequence

import numpy as np
import pytest

from src.data.corpus import Corpus
from src.data.tokenizer import Tokenizer


@pytest.fixture(params=["tiny", "gpt2"])
def any_tokenizer(request) -> Tokenizer:
    return request.getfixturevalue("tokenizer" if request.param == "tiny" else "gpt2_tokenizer")


def corpus_of(*examples: tuple[Sequence[int], Sequence[int]]) -> Corpus:
    """A corpus in memory of (token ids, is it supervised?) pairs."""
    lengths = [len(ids) for ids, _ in examples]
    return Corpus(
        input_ids=np.array([i for ids, _ in examples for i in ids], dtype=np.uint16),
        supervised=np.array([s for _, flags in examples for s in flags], dtype=bool),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        prompts=np.arange(len(examples), dtype=np.uint64),
        normal_prompts=np.arange(len(examples), dtype=np.uint64),
    )


def random_corpus(seed: int, num_examples: int, longest: int = 30) -> Corpus:
    """Random tokens with random flags, each example at least one token long."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, longest + 1, num_examples)
    return corpus_of(
        *((rng.integers(0, 1000, n).tolist(), (rng.random(n) < 0.6).tolist()) for n in lengths)
    )
