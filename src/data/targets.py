"""What is due in a batch, and how much of it: labels, for supervised fine-tuning."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from src.data.batch import BatchTargets
from src.data.template import PROMPT, RESPONSE, Examples

EXAMPLES_AT_A_TIME = 4096  # while labels are counted


class Document(NamedTuple):
    """One example in a batch: where it starts in the flattened positions, and its tokens (L,).

    ``number``: which of the corpus it is.
    """

    number: int
    start: int
    input_ids: np.ndarray
    supervised: np.ndarray  # (L,) as in ``Examples``


class Targets(Protocol):
    """How the targets of a training step are counted and made.

    prompt_weight: what a token of a prompt counts in the loss, beside 1 for a target; 0: nothing.
    whole_units: whether a unit with a document that is too long is dropped, not cut.
    """

    prompt_weight: float
    whole_units: bool

    def count(self, examples: Examples, lengths: np.ndarray) -> np.ndarray:
        """Return the number of targets (examples,) in the first ``lengths`` tokens of each."""
        ...

    def count_prompts(self, examples: Examples, lengths: np.ndarray) -> np.ndarray:
        """Return the same of the tokens of prompts that are scored."""
        ...

    def collate(self, documents: Sequence[Document], examples: Examples) -> BatchTargets:
        """Return the targets of a batch's documents of ``examples``, in their order."""
        ...


class Labels:
    """The next tokens: a label for each supervised token of an example except its first.

    With a ``prompt_weight`` the tokens of prompts have labels, too, apart from the others: the loss
    that is learned from is a mean in which each counts so much.
    """

    whole_units = False

    def __init__(self, prompt_weight: float = 0.0):
        self.prompt_weight = prompt_weight

    def count(self, examples: Examples, lengths: np.ndarray) -> np.ndarray:
        """Return the number of labels; memory does not grow with the number of tokens."""
        return self._count(examples, lengths, RESPONSE)

    def count_prompts(self, examples: Examples, lengths: np.ndarray) -> np.ndarray:
        """Return the number of labels in prompts."""
        if not self.prompt_weight:
            return np.zeros(len(lengths), dtype=np.int64)
        return self._count(examples, lengths, PROMPT)

    def _count(self, examples: Examples, lengths: np.ndarray, kind: int) -> np.ndarray:
        labels = np.zeros(len(lengths), dtype=np.int64)
        for first in range(0, len(lengths), EXAMPLES_AT_A_TIME):
            part = slice(first, first + EXAMPLES_AT_A_TIME)
            starts = examples.offsets[:-1][part]
            ends = starts + lengths[part]
            taught = examples.supervised[starts[0] : ends[-1]] == kind
            running = np.concatenate([[0], np.cumsum(taught, dtype=np.int64)])
            after_first = np.minimum(starts + 1, ends)
            labels[part] = running[ends - starts[0]] - running[after_first - starts[0]]
        return labels

    def collate(self, documents: Sequence[Document], examples: Examples) -> BatchTargets:
        """Return ``supervised_index`` and ``labels`` (S,) int64.

        With a ``prompt_weight`` also ``prompt_index`` and ``prompt_labels`` (P,) int64.
        """
        index, labels = self._collate(documents, RESPONSE)
        targets: BatchTargets = {"supervised_index": index, "labels": labels}
        if self.prompt_weight:
            index, labels = self._collate(documents, PROMPT)
            targets |= {"prompt_index": index, "prompt_labels": labels}
        return targets

    def _collate(self, documents: Sequence[Document], kind: int) -> tuple[Tensor, Tensor]:
        index, labels = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
        for document in documents:
            taught = np.flatnonzero(document.supervised[1:] == kind)
            index.append(document.start + taught)
            labels.append(document.input_ids[taught + 1].astype(np.int64))
        return torch.from_numpy(np.concatenate(index)), torch.from_numpy(np.concatenate(labels))
