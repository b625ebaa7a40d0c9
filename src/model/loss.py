"""Cross-entropy and accuracy over supervised positions only."""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from src.model.gpt2 import GPT2

IGNORE_INDEX = -100  # a label that is not scored, in torch's own convention


class LossSums(NamedTuple):
    """Sums, for the caller to divide: the mean of means is not the mean. Each is a 0-d tensor."""

    loss: Tensor  # nats, with a gradient
    num_correct: Tensor  # int64
    num_supervised: Tensor  # int64


def supervised_loss(
    model: GPT2, hidden: Tensor, supervised_index: Tensor, labels: Tensor
) -> LossSums:
    """Return the summed loss and the counts over the supervised positions.

    The head, the largest matrix product of a small GPT-2, runs on the supervised positions alone.

    Args:
        model: gives ``logits``.
        hidden: (B, T, D).
        supervised_index: (S,) int64 positions in the flattened B x T.
        labels: (S,) int64 the token that follows each; ``IGNORE_INDEX`` is not scored.
    """
    logits = model.logits(hidden.flatten(0, 1).index_select(0, supervised_index))  # (S, V)
    loss = F.cross_entropy(logits.float(), labels, reduction="sum", ignore_index=IGNORE_INDEX)
    return LossSums(
        loss=loss,
        num_correct=(logits.detach().argmax(-1) == labels).sum(),
        num_supervised=(labels != IGNORE_INDEX).sum(),
    )
