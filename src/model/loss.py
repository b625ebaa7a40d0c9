"""Cross-entropy and accuracy over supervised positions only.

For a small GPT-2 the head is the largest matrix product. The steps after it move far more memory:
scores, their logarithms, their gradients, each (S, V) and in fp32. So one pass over the scores, a
few rows at a time, gives loss, accuracy and gradient, as in Cut Cross-Entropy (Wijmans et al.,
arXiv:2411.09009) and Liger Kernel (Hsu et al., arXiv:2410.10989). torch's chunked
``linear_cross_entropy`` (2.13) returns no scores for the accuracy, sums a bf16 loss in bf16, and
takes ten times as long on a CPU.

Shape letters: S supervised positions, D width, V vocabulary.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from src.model.device import has_kernels
from src.model.gpt2 import GPT2
from src.model.head import (
    VOCABULARY_MULTIPLE,
    cast_head,
    compute_dtype,
    head_gradient,
    rows_and_head,
)

if HAS_KERNEL := has_kernels():  # a second to import
    from src.model.fused_scores import score_

IGNORE_INDEX = -100  # a label that is not scored, in torch's own convention

CHUNK = 4096  # positions whose scores are in memory at once
CPU_TILE = 32  # positions whose scores are in fp32 at once: few enough for the cache
CPU_SCORES = 2**17  # of a small vocabulary so many scores at once
GPU_TILE = 1024


class LossSums(NamedTuple):
    """0-d sums, which the caller divides: a mean of means is not the mean."""

    loss: Tensor  # nats, with a gradient
    num_correct: Tensor  # int64
    num_supervised: Tensor  # int64


class WeightedLossSums(NamedTuple):
    """``LossSums`` of what is supervised, and beside it the loss that is learned from."""

    loss: Tensor  # nats, with a gradient: of responses, and of prompts at their weight
    response_loss: Tensor  # nats, of responses alone
    num_correct: Tensor  # int64, of responses
    num_supervised: Tensor  # int64, of responses


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
    rows, weight = rows_and_head(model, hidden, supervised_index)
    loss, num_correct = LinearCrossEntropy.apply(rows, weight, labels)
    return LossSums(loss, num_correct, (labels != IGNORE_INDEX).sum())


def prompt_weighted_loss(
    model: GPT2,
    hidden: Tensor,
    responses: tuple[Tensor, Tensor],
    prompts: tuple[Tensor, Tensor],
    prompt_weight: float,
) -> WeightedLossSums:
    """Return the sums where the tokens of prompts are learned from, too, at their weight.

    Args:
        model: its embedding is the head.
        hidden: (B, T, D).
        responses: positions and labels, each (S,) int64, as in ``supervised_loss``.
        prompts: the same (P,) of prompts.
        prompt_weight: what a token of a prompt counts in the loss.
    """
    (response_index, labels), (prompt_index, prompt_labels) = responses, prompts
    rows, weight = rows_and_head(model, hidden, torch.cat([response_index, prompt_index]))
    loss, num_correct, response_loss = PromptWeightedCrossEntropy.apply(
        rows, weight, torch.cat([labels, prompt_labels]), len(labels), prompt_weight
    )
    return WeightedLossSums(loss, response_loss, num_correct, (labels != IGNORE_INDEX).sum())


class LinearCrossEntropy(torch.autograd.Function):
    """(S, D) hidden rows, (V, D) weight, (S,) labels -> summed loss, number of correct argmaxes.

    The forward pass computes the gradients of both inputs, while it has the scores; the backward
    pass only scales them, in place, so it runs once: not again with ``retain_graph``. At most
    ``CHUNK`` x V scores exist at a time.
    """

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        sums, _ = _sums_and_gradients(ctx, hidden, weight, labels, len(labels), 0.0)
        loss, num_correct = sums
        ctx.mark_non_differentiable(num_correct)
        return loss, num_correct

    @staticmethod
    def backward(ctx, grad_loss: Tensor, _: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        return *_scaled(ctx, grad_loss), None


class PromptWeightedCrossEntropy(torch.autograd.Function):
    """The same, of which the rows from ``num_responses`` on count ``prompt_weight`` each.

    (S + P, D), (V, D), (S + P,) -> the weighted loss, the number of correct argmaxes and the loss
    of the first S rows. Only the first has a gradient.
    """

    @staticmethod
    def forward(
        ctx,
        hidden: Tensor,
        weight: Tensor,
        labels: Tensor,
        num_responses: int,
        prompt_weight: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        responses, prompts = _sums_and_gradients(
            ctx, hidden, weight, labels, num_responses, prompt_weight
        )
        response_loss, num_correct = responses
        prompt_loss, _ = prompts or _nothing(hidden)
        ctx.mark_non_differentiable(num_correct, response_loss)
        return response_loss + prompt_weight * prompt_loss, num_correct, response_loss

    @staticmethod
    def backward(
        ctx, grad_loss: Tensor, *_: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        return *_scaled(ctx, grad_loss), None, None, None


def _sums_and_gradients(
    ctx,
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    num_responses: int,
    prompt_weight: float,
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor] | None]:
    """Return loss and number correct of the first rows, and of the others if there are any.

    The gradients of both inputs are saved in ``ctx``: those of the other rows' loss at its weight.
    """
    kind, dtype = hidden.device.type, compute_dtype(hidden)
    wants_hidden, wants_weight = ctx.needs_input_grad[:2]
    wants_gradient = wants_hidden or wants_weight
    with torch.autocast(kind, enabled=False):
        head = cast_head(weight, dtype)
        rows = hidden.to(dtype)
        sums: dict[bool, tuple[Tensor, Tensor]] = {}  # of responses, of prompts
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        grad_weight = None
        for chunk in _chunks(num_responses, len(rows)):
            scores = F.linear(rows[chunk], head)
            new = _score_(scores, labels[chunk], len(weight), wants_gradient)
            if (is_prompt := chunk.start >= num_responses) and wants_gradient:
                scores *= prompt_weight
            # The first is not added to zeros, which would be two launches more.
            old = sums.get(is_prompt)
            sums[is_prompt] = new if old is None else (old[0] + new[0], old[1] + new[1])
            if grad_hidden is not None:
                grad_hidden[chunk] = scores @ head
            if wants_weight:
                product = head_gradient(scores, rows[chunk])
                grad_weight = product if grad_weight is None else grad_weight.float().add_(product)
        if wants_weight and grad_weight is None:
            grad_weight = torch.zeros_like(weight)
        elif grad_weight is not None:
            grad_weight = grad_weight[: len(weight)].to(weight.dtype)
    ctx.save_for_backward(grad_hidden, grad_weight)
    return sums.get(False) or _nothing(hidden), sums.get(True)


def _chunks(num_responses: int, num_rows: int) -> Iterator[slice]:
    """Yield the rows in parts of at most ``CHUNK``; none has both responses and prompts."""
    for first, end in ((0, num_responses), (num_responses, num_rows)):
        for start in range(first, end, CHUNK):
            yield slice(start, min(start + CHUNK, end))


def _nothing(hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Return loss and number correct of no rows."""
    zero = torch.zeros((), device=hidden.device)
    return zero, torch.zeros((), dtype=torch.int64, device=hidden.device)


def _scaled(ctx, grad_loss: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of hidden rows and head, which the forward pass saved; they change."""
    grad_hidden, grad_weight = ctx.saved_tensors
    return (
        None if grad_hidden is None else grad_hidden.mul_(grad_loss),
        None if grad_weight is None else grad_weight.mul_(grad_loss),
    )


def _score_(
    scores: Tensor, labels: Tensor, vocab_size: int, wants_gradient: bool
) -> tuple[Tensor, Tensor]:
    """Return summed loss and number correct; ``scores`` (rows, V') become d loss / d scores.

    Without ``wants_gradient`` they are undefined afterwards.
    """
    if HAS_KERNEL and scores.device.type != "cpu":
        return score_(scores, labels, vocab_size, wants_gradient, IGNORE_INDEX)
    return plain_score_(scores, labels, vocab_size, wants_gradient)


def plain_score_(
    scores: Tensor, labels: Tensor, vocab_size: int, wants_gradient: bool
) -> tuple[Tensor, Tensor]:
    """Return what the kernel of ``fused_scores.score_`` does, by PyTorch's operations."""
    scored = (labels != IGNORE_INDEX)[:, None]
    targets = labels[:, None].where(scored, 0)
    is_scored = scored.float()
    size = tile_size(scores.device.type, scores.shape[1])
    tiles = zip(scores.split(size), targets.split(size), is_scored.split(size), strict=True)
    parts = [_score_tile_(*tile, vocab_size, wants_gradient) for tile in tiles]
    prediction, at, probability = (torch.cat(part) for part in zip(*parts, strict=True))
    # log(sum(exp(x))) from the largest score, whose probability is never near zero.
    log_total = at[:, :1] - probability.log()
    loss = (log_total - at[:, 1:]).where(scored, 0.0).sum()
    return loss, (prediction == labels[:, None]).sum()


def tile_size(device: str, vocab_size: int) -> int:
    """Return how many positions have their scores in fp32 at once."""
    return max(CPU_TILE, CPU_SCORES // vocab_size) if device == "cpu" else GPU_TILE


def _score_tile_(
    scores: Tensor, targets: Tensor, is_scored: Tensor, vocab_size: int, wants_gradient: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the likeliest token, its score and the target's, and its probability.

    (rows, 1), (rows, 2), (rows, 1).
    """
    x = scores.float()
    if vocab_size < x.shape[1]:
        x[:, vocab_size:] = float("-inf")
    prediction = _argmax(x)
    columns = torch.cat([prediction, targets], 1)
    at = x.gather(1, columns)
    softmax = x.softmax(1)
    probability = softmax.gather(1, columns)
    if wants_gradient:
        softmax.mul_(is_scored)
        at_targets = probability[:, 1:] * is_scored - is_scored
        scores.copy_(softmax).scatter_(1, targets, at_targets.to(scores.dtype))
    return prediction, at, probability[:, :1]


def _argmax(x: Tensor) -> Tensor:
    """Return the column (rows, 1) of each row's largest value, the first of equals."""
    if x.device.type != "cpu":
        return x.argmax(1, keepdim=True)
    if x.shape[1] % VOCABULARY_MULTIPLE:
        return x.max(1, keepdim=True).indices  # there three times as fast as argmax
    # amax is ten times as fast: find the group, then the column in it.
    groups = x.view(len(x), -1, VOCABULARY_MULTIPLE)
    group = groups.amax(2).argmax(1)[:, None]
    columns = group * VOCABULARY_MULTIPLE + torch.arange(VOCABULARY_MULTIPLE)
    return columns.gather(1, x.gather(1, columns).argmax(1, keepdim=True))
