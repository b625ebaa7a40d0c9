"""Cross-entropy and accuracy over supervised positions only.

For a small GPT-2 the head is the largest matrix product, and what surrounds it moves far more
memory than it: scores, their logarithms, their gradients, each (S, V) and in fp32. So loss,
accuracy and the gradient come out of one pass over the scores, a few rows at a time, as in Cut
Cross-Entropy (Wijmans et al., arXiv:2411.09009) and Liger Kernel (Hsu et al., arXiv:2410.10989).

Shape letters: S supervised positions, D width, V vocabulary.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from src.model.gpt2 import GPT2

IGNORE_INDEX = -100  # a label that is not scored, in torch's own convention

CHUNK = 4096  # positions whose scores are in memory at once
CPU_TILE = 256  # positions whose fp32 scores stay in the cache while they are worked on
VOCABULARY_MULTIPLE = 64  # matrix units are slow on odd sizes, and 50257 is odd


class LossSums(NamedTuple):
    """Sums, for the caller to divide: the mean of means is not the mean. Each is a 0-d tensor."""

    loss: Tensor  # nats, with a gradient
    num_correct: Tensor  # int64
    num_supervised: Tensor  # int64


def supervised_loss(
    model: GPT2, hidden: Tensor, supervised_index: Tensor, labels: Tensor
) -> LossSums:
    """Return the summed loss and the counts over the supervised positions.

    The products run in autocast's type, the softmax in fp32.

    Args:
        model: its embedding is the head.
        hidden: (B, T, D).
        supervised_index: (S,) int64 positions in the flattened B x T.
        labels: (S,) int64 the token that follows each; ``IGNORE_INDEX`` is not scored.
    """
    rows = hidden.flatten(0, 1).index_select(0, supervised_index)  # (S, D)
    loss, num_correct = LinearCrossEntropy.apply(rows, model.wte.weight, labels)
    return LossSums(loss, num_correct, (labels != IGNORE_INDEX).sum())


class LinearCrossEntropy(torch.autograd.Function):
    """(S, D) hidden rows, (V, D) weight, (S,) labels -> summed loss, number of correct argmaxes.

    The gradients of both inputs are made in the forward pass, while the scores are at hand; the
    backward pass only scales them. No more than ``CHUNK`` x V scores exist at a time.
    """

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        with torch.autocast(kind, enabled=False):
            head = _padded(weight, dtype)
            rows = hidden.to(dtype)
            loss = torch.zeros((), device=hidden.device)
            num_correct = torch.zeros((), dtype=torch.int64, device=hidden.device)
            grad_hidden = torch.empty_like(hidden) if wants_hidden else None
            grad_weight = None
            for start in range(0, len(rows), CHUNK):
                chunk = slice(start, start + CHUNK)
                scores, loss_sum, correct = _score(
                    rows[chunk], head, labels[chunk], len(weight), wants_hidden or wants_weight
                )
                loss += loss_sum
                num_correct += correct
                if wants_hidden:
                    grad_hidden[chunk] = scores @ head
                if wants_weight:
                    product = scores.t() @ rows[chunk]
                    grad_weight = (
                        product if grad_weight is None else grad_weight.float().add_(product)
                    )
            if wants_weight:
                grad_weight = (
                    torch.zeros_like(weight)
                    if grad_weight is None
                    else grad_weight[: len(weight)].to(weight.dtype)
                )
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.mark_non_differentiable(num_correct)
        return loss, num_correct

    @staticmethod
    def backward(ctx, grad_loss: Tensor, _: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        return (
            None if grad_hidden is None else grad_hidden * grad_loss,
            None if grad_weight is None else grad_weight * grad_loss,
            None,
        )


def _padded(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Return (V', D) in ``dtype``, V' a multiple of ``VOCABULARY_MULTIPLE``; new rows are zero."""
    missing = -len(weight) % VOCABULARY_MULTIPLE
    if not missing or dtype == torch.float32:
        return weight.to(dtype)
    head = weight.new_empty((len(weight) + missing, weight.shape[1]), dtype=dtype)
    head[: len(weight)] = weight
    head[len(weight) :] = 0
    return head


def _score(
    rows: Tensor, head: Tensor, labels: Tensor, vocab_size: int, wants_gradient: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return d loss / d scores (rows, V'; empty unless wanted), summed loss, number correct."""
    tile = CPU_TILE if rows.device.type == "cpu" else len(rows)
    scored = labels != IGNORE_INDEX
    targets = labels.where(scored, 0)[:, None]
    gradient = rows.new_empty(len(rows) if wants_gradient else 0, len(head))
    workspace = rows.new_empty((min(tile, len(rows)), len(head)), dtype=torch.float32)
    losses, predictions = [], []
    for start in range(0, len(rows), tile):
        part = slice(start, start + tile)
        scores = workspace[: len(rows[part])].copy_(F.linear(rows[part], head))
        scores[:, vocab_size:] = float("-inf")
        target = scores.gather(1, targets[part])
        top, prediction = scores.max(1, keepdim=True)
        total = scores.sub_(top).exp_().sum(1, keepdim=True)
        losses.append(total.log() + top - target)
        predictions.append(prediction)
        if wants_gradient:
            scores.mul_(scored[part, None] / total)  # the softmax, and 0 where nothing is scored
            scores.scatter_add_(1, targets[part], -scored[part, None].float())
            gradient[part] = scores
    loss = torch.cat(losses).squeeze(1).where(scored, 0.0).sum()
    correct = (torch.cat(predictions).squeeze(1) == labels).sum()
    return gradient, loss, correct
