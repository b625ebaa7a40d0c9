from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from src.data.corpus import Corpus
from src.data.files.part import Broken
from src.data.files.places import find_places
from src.data.files.reader import open_parts
from src.data.tokenizer import Tokenizer


@pytest.fixture(params=["tiny", "gpt2"])
def any_tokenizer(request) -> Tokenizer:
    return request.getfixturevalue("tokenizer" if request.param == "tiny" else "gpt2_tokenizer")


def read_file(path: Path | str, encoding: str | None = None) -> tuple[list[dict], list[str]]:
    """Read whatever a path means: the rows, and what is broken as "line 3: why"."""
    rows, broken = [], []
    for place in find_places(str(path), "data.path"):
        for part in open_parts(place, encoding):
            for number, row in part.records():
                if isinstance(row, Broken):
                    broken.append(f"{part.unit} {number}: {row.what}")
                else:
                    rows.append(row)
    return rows, broken


def corpus_of(*examples: tuple[Sequence[int], Sequence[int]]) -> Corpus:
    """A corpus in memory of (token ids, is it supervised?) pairs."""
    lengths = [len(ids) for ids, _ in examples]
    return Corpus(
        input_ids=np.array([i for ids, _ in examples for i in ids], dtype=np.uint16),
        supervised=np.array([s for _, flags in examples for s in flags], dtype=bool),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        prompts=np.arange(len(examples), dtype=np.uint64),
        sources=np.zeros(len(examples), dtype=np.uint16),
    )


def random_corpus(seed: int, num_examples: int, longest: int = 30) -> Corpus:
    """Random tokens with random flags, each example at least one token long."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, longest + 1, num_examples)
    return corpus_of(
        *((rng.integers(0, 1000, n).tolist(), (rng.random(n) < 0.6).tolist()) for n in lengths)
    )
