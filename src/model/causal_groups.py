"""Causal attention of groups of short documents on a CPU, as one step of the autograd graph.

For a small model an operation costs more than its arithmetic. So all heads of all groups are
gathered at once into rows of their own, each group takes three operations forward and five
backward, and the results are gathered back at once.

Shape letters: N positions, H heads, d width of a head, S slots (positions and padding).
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Group = tuple[int, int]  # documents, their padded length


class HeadRows:
    """Where each head of each position lies while groups are computed.

    A head of a document has its positions in adjacent rows, then comes the next head; all queries
    come first, then all keys, then all values.

    Args:
        groups: their slots follow one another.
        gather: (S,) the position of each slot.
        slots: (N,) the slot of each position.
        num_heads: H.
    """

    def __init__(
        self, groups: Sequence[Group], gather: Tensor, slots: Tensor, num_heads: int
    ) -> None:
        self.groups, self.num_heads = groups, num_heads
        self.sizes = [count * padded * num_heads for count, padded in groups]
        self.num_rows = sum(self.sizes)  # of queries, of keys and of values
        counts, lengths = np.array(groups).T
        padded = np.repeat(lengths, counts)
        first_slot = np.repeat(np.cumsum(padded) - padded, padded)  # of the document of each slot
        inside = np.arange(len(gather)) - first_slot
        heads = np.arange(num_heads)
        first_row = first_slot * num_heads + inside
        rows = first_row[:, None] + np.repeat(padded, padded)[:, None] * heads  # (S, H)
        source = np.empty(self.num_rows, dtype=np.int64)
        source[rows] = gather.numpy()[:, None] * (3 * num_heads) + heads
        out = rows[slots.numpy()]  # (N, H)
        parts = np.arange(3)[:, None]
        back = out[:, None] + self.num_rows * parts  # (N, 3, H)
        self.whole = torch.from_numpy((source + num_heads * parts).ravel())  # rows of qkv
        self.out, self.back = torch.from_numpy(out.ravel()), torch.from_numpy(back.ravel())
        self.masks: dict[tuple[int, torch.dtype], Tensor] = {}

    def mask(self, length: int, dtype: torch.dtype) -> Tensor:
        """Return what is added to the scores (L, L) of a document: later positions are -inf."""
        if (length, dtype) not in self.masks:
            mask = torch.full((length, length), float("-inf"), dtype=dtype)
            self.masks[length, dtype] = mask.triu_(1)
        return self.masks[length, dtype]

    def of_groups(self, rows: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Yield each group's part of ``rows`` (K S H, d): K views (documents x H, length, d)."""
        num_parts, width = len(rows) // self.num_rows, rows.shape[1]
        parts = rows.split(self.sizes * num_parts)
        for number, (_, length) in enumerate(self.groups):
            of_group = parts[number :: len(self.groups)]
            yield tuple(part.view(-1, length, width) for part in of_group)


class CausalGroups(torch.autograd.Function):
    """(N, 3 H d) queries, keys and values -> (N, H d), each document by itself.

    All in the type of ``qkv``, within autocast, too.
    """

    @staticmethod
    def forward(ctx, qkv: Tensor, rows: HeadRows) -> Tensor:
        with torch.autocast(qkv.device.type, enabled=False):
            return CausalGroups._forward(ctx, qkv, rows)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        with torch.autocast(grad.device.type, enabled=False):
            return CausalGroups._backward(ctx, grad), None

    @staticmethod
    def _forward(ctx, qkv: Tensor, rows: HeadRows) -> Tensor:
        width = qkv.shape[1] // (3 * rows.num_heads)
        heads = qkv.reshape(-1, width).index_select(0, rows.whole)
        heads[: rows.num_rows] *= width**-0.5
        out = heads.new_empty(rows.num_rows, width)
        weights = []
        for (q, k, v), (o,) in zip(rows.of_groups(heads), rows.of_groups(out), strict=True):
            mask = rows.mask(q.shape[1], q.dtype)
            weights.append(torch.baddbmm(mask, q, k.transpose(1, 2)).softmax(-1))
            torch.bmm(weights[-1], v, out=o)
        ctx.rows = rows
        ctx.save_for_backward(heads, *weights)
        return out.index_select(0, rows.out).view(len(qkv), -1)

    @staticmethod
    def _backward(ctx, grad: Tensor) -> Tensor:
        rows: HeadRows = ctx.rows
        heads, *weights = ctx.saved_tensors
        width = heads.shape[1]
        # Padding has no gradient.
        grads_out = heads.new_zeros(rows.num_rows, width)
        grads_out.index_copy_(0, rows.out, grad.reshape(-1, width))
        grads = torch.empty_like(heads)
        parts = zip(
            rows.of_groups(heads),
            rows.of_groups(grads),
            rows.of_groups(grads_out),
            weights,
            strict=True,
        )
        for (q, k, v), (grad_q, grad_k, grad_v), (grad_o,), weight in parts:
            torch.bmm(weight.transpose(1, 2), grad_o, out=grad_v)
            grad_weight = torch.bmm(grad_o, v.transpose(1, 2))
            grad_scores = torch._softmax_backward_data(grad_weight, weight, -1, weight.dtype)
            torch.bmm(grad_scores, k, out=grad_q)
            torch.bmm(grad_scores.transpose(1, 2), q, out=grad_k)
        grads[: rows.num_rows] *= width**-0.5
        return grads.index_select(0, rows.back).view(len(grad), -1)
