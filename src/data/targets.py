"""What is due in a batch, and how much of it: labels, for supervised fine-tuning."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch

from src.data.batch import BatchTargets
from src.data.template import Examples

EXAMPLES_AT_A_TIME = 4096  # while labels are counted


class Document(NamedTuple):
    """One example in a batch: where it starts in the flattened positions, and its tokens (L,)."""

    start: int
    input_ids: np.ndarray
    supervised: np.ndarray  # (L,) bool


class Targets(Protocol):
    """How the targets of a training step are counted and made."""

    def count(self, examples: Examples, lengths: np.ndarray) -> np.ndarray:
        """Return the number of targets (examples,) in the first ``lengths`` tokens of each."""
        ...

    def collate(self, documents: Sequence[Document]) -> BatchTargets:
        """Return the targets of a batch's documents, in their order."""
        ...


class Labels:
    """The next tokens: a label for each supervised token of an example except its first."""

    def count(self, examples: Examples, lengths: np.ndarray) -> np.ndarray:
        """Return the number of labels; memory does not grow with the number of tokens."""
        labels = np.zeros(len(lengths), dtype=np.int64)
        for first in range(0, len(lengths), EXAMPLES_AT_A_TIME):
            part = slice(first, first + EXAMPLES_AT_A_TIME)
            starts = examples.offsets[:-1][part]
            ends = starts + lengths[part]
            taught = examples.supervised[starts[0] : ends[-1]]
            running = np.concatenate([[0], np.cumsum(taught, dtype=np.int64)])
            after_first = np.minimum(starts + 1, ends)
            labels[part] = running[ends - starts[0]] - running[after_first - starts[0]]
        return labels

    def collate(self, documents: Sequence[Document]) -> BatchTargets:
        """Return ``supervised_index`` and ``labels`` (S,) int64."""
        index, labels = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
        for document in documents:
            taught = np.flatnonzero(document.supervised[1:])
            index.append(document.start + taught)
            labels.append(document.input_ids[taught + 1].astype(np.int64))
        return {
            "supervised_index": torch.from_numpy(np.concatenate(index)),
            "labels": torch.from_numpy(np.concatenate(labels)),
        }
