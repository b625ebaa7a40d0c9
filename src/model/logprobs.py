"""Log-probabilities of given tokens, and entropies, without all scores in memory.

The forward pass keeps the hidden rows and the logarithm of each softmax's sum, and the backward
pass computes the scores again, some rows at a time: what is kept is R x D, never R x V. (The loss
of ``loss.py`` makes its gradient in the forward pass; an objective of log-probabilities knows its
gradient only when all of them are there.)

Shape letters: B blocks, T positions, D width, V vocabulary, R tokens whose log-probability is due.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from src.model.gpt2 import GPT2
from src.model.head import cast_head, compute_dtype, head_gradient, rows_and_head

CHUNK = 1024  # rows whose scores are in memory at once, in the compute type
CPU_TILE = 32  # rows whose scores are in fp32 at once: few enough for the cache
GPU_TILE = 256


class TokenScores(NamedTuple):
    """Of each token (R,), fp32."""

    logprobs: Tensor  # nats, with a gradient
    entropies: Tensor  # nats, of the distribution that the token was drawn from; without one


def token_logprobs(model: GPT2, hidden: Tensor, index: Tensor, tokens: Tensor) -> Tensor:
    """Return the log-probability (R,) of each token in nats, fp32, with a gradient.

    The products run in autocast's type, the softmax in fp32. For a temperature, divide ``hidden``.

    Args:
        model: its embedding is the head.
        hidden: (B, T, D).
        index: (R,) int64 positions in the flattened B x T, each before its token.
        tokens: (R,) int64.
    """
    rows, weight = rows_and_head(model, hidden, index)
    return _LogProbs.apply(rows, weight, tokens, False)[0]


def token_scores(model: GPT2, hidden: Tensor, index: Tensor, tokens: Tensor) -> TokenScores:
    """Return the same log-probabilities, and the entropy of each token's distribution."""
    rows, weight = rows_and_head(model, hidden, index)
    return TokenScores(*_LogProbs.apply(rows, weight, tokens, True))


class _LogProbs(torch.autograd.Function):
    """(R, D) hidden rows, (V, D) weight, (R,) tokens -> (R,) log-probabilities, (R,) entropies."""

    @staticmethod
    def forward(
        ctx, hidden: Tensor, weight: Tensor, tokens: Tensor, with_entropies: bool
    ) -> tuple[Tensor, Tensor]:
        totals, logprobs, entropies = (
            torch.zeros(len(hidden), device=hidden.device) for _ in range(3)
        )
        dtype = compute_dtype(hidden)
        with torch.autocast(hidden.device.type, enabled=False):
            head, rows = cast_head(weight, dtype), hidden.to(dtype)
            for part, scores in _tiles(rows, head, len(weight)):
                totals[part] = scores.logsumexp(1)
                logprobs[part] = scores.gather(1, tokens[part, None])[:, 0] - totals[part]
                if with_entropies:
                    softmax = (scores - totals[part, None]).exp_()
                    scores.masked_fill_(scores == float("-inf"), 0.0)  # 0 x -inf would be NaN
                    entropies[part] = totals[part] - (softmax * scores).sum(1)
        ctx.save_for_backward(hidden, weight, tokens, totals)
        ctx.dtype = dtype
        ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    def backward(ctx, grad: Tensor, _: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        hidden, weight, tokens, totals = ctx.saved_tensors
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.zeros_like(hidden) if wants_hidden else None
        grad_weight = torch.zeros_like(weight) if wants_weight else None
        with torch.autocast(hidden.device.type, enabled=False):
            head, rows = cast_head(weight, ctx.dtype), hidden.to(ctx.dtype)
            for start in range(0, len(rows), CHUNK):
                chunk = slice(start, start + CHUNK)
                scores = F.linear(rows[chunk], head)
                for tile in _tile_slices(scores):
                    at = slice(start + tile.start, start + tile.stop)
                    x = _masked(scores[tile].float(), len(weight))
                    softmax = x.sub_(totals[at, None]).exp_()
                    softmax.mul_(-grad[at, None])
                    softmax.scatter_add_(1, tokens[at, None], grad[at, None])
                    scores[tile] = softmax
                if grad_hidden is not None:
                    grad_hidden[chunk] = scores @ head
                if grad_weight is not None:
                    grad_weight += head_gradient(scores, rows[chunk])[: len(weight)]
        return grad_hidden, grad_weight, None, None


def _tiles(rows: Tensor, head: Tensor, vocab_size: int) -> Iterator[tuple[slice, Tensor]]:
    """Yield rows as a slice and their scores in fp32, which may be written to."""
    for start in range(0, len(rows), CHUNK):
        scores = F.linear(rows[start : start + CHUNK], head)
        for tile in _tile_slices(scores):
            part = slice(start + tile.start, start + tile.stop)
            yield part, _masked(scores[tile].float(), vocab_size)


def _tile_slices(scores: Tensor) -> Iterator[slice]:
    size = CPU_TILE if scores.device.type == "cpu" else GPU_TILE
    for start in range(0, len(scores), size):
        yield slice(start, min(start + size, len(scores)))


def _masked(scores: Tensor, vocab_size: int) -> Tensor:
    """Return the scores (rows, V'); those that only pad the head are then -inf."""
    if scores.shape[1] > vocab_size:
        scores[:, vocab_size:] = float("-inf")
    return scores
