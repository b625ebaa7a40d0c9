"""Causal attention inside each document: several implementations behind one call.

Every implementation takes the fused projection ``qkv`` (B, T, 3D), the number of heads H and the
layer's number, and returns (B, T, D). No position ever sees another document.
"""

import math
from typing import Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from src.model.causal_groups import CausalGroups, HeadRows
from src.model.device import compute_capability

if torch.cuda.is_available():  # nearly a second to import, and no other device has the kernel
    from src.model.varlen import VarlenAttention


class Attention(Protocol):
    """Attends within documents; see the module's docstring."""

    def __call__(self, qkv: Tensor, num_heads: int, layer: int, dropout: float) -> Tensor:
        """Return (B, T, D) for ``qkv`` (B, T, 3D)."""
        ...


Backend = Literal["varlen", "grouped", "dense"]


def choose_backend(device: str, capability: int, half_precision: bool, dropout: float) -> Backend:
    """Return the best implementation for packed blocks on a kind of device.

    CPU: ``GroupedAttention``. From SM80 on, in half precision and without dropout:
    ``VarlenAttention``. Anything else, such as Turing: ``DenseAttention``, for which torch uses its
    memory-efficient kernel.

    Args:
        device: its type.
        capability: its ``compute_capability``.
        half_precision: whether autocast computes in bf16 or fp16.
        dropout: the probability that an attention weight is dropped.
    """
    if device == "cpu":
        return "grouped"
    return "varlen" if capability >= 8 and half_precision and not dropout else "dense"


def packed_attention(
    cu_seqlens: Tensor, max_seqlen: int, shape: tuple[int, int], dropout: float
) -> Attention:
    """Return the attention of packed blocks on the device of ``cu_seqlens``.

    Args:
        cu_seqlens: (documents + 1,) int32 boundaries in the flattened B x T positions.
        max_seqlen: at least the length of the longest document, at most T.
        shape: (B, T).
        dropout: the probability that an attention weight is dropped.
    """
    device = cu_seqlens.device.type
    half_precision = torch.is_autocast_enabled("cuda")
    match choose_backend(device, compute_capability(device), half_precision, dropout):
        case "varlen":
            return VarlenAttention(cu_seqlens, max_seqlen)
        case "grouped":
            return GroupedAttention(cu_seqlens)
        case "dense":
            return DenseAttention(cu_seqlens, shape)


def split_heads(qkv: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return q, k, v, each (B, H, T, D / H), of ``qkv`` (B, T, 3D)."""
    batch, length, width = qkv.shape
    heads = qkv.view(batch, length, 3, num_heads, width // 3 // num_heads)
    q, k, v = heads.permute(2, 0, 3, 1, 4)
    return q, k, v


def merge_heads(x: Tensor) -> Tensor:
    """Return (B, T, D) of ``x`` (B, H, T, D / H)."""
    return x.transpose(1, 2).flatten(2)


class DenseAttention:
    """The reference: a (B, 1, T, T) mask of each position's document up to the position itself."""

    def __init__(self, cu_seqlens: Tensor, shape: tuple[int, int]):
        num_blocks, length = shape
        positions = torch.arange(num_blocks * length, device=cu_seqlens.device)
        document = torch.bucketize(positions, cu_seqlens, right=True).view(num_blocks, length)
        same = document[:, :, None] == document[:, None, :]
        self.mask = same.tril()[:, None]
        self.bias: Tensor | None = None

    def __call__(self, qkv: Tensor, num_heads: int, layer: int, dropout: float) -> Tensor:
        q, k, v = split_heads(qkv, num_heads)
        if self.bias is None or self.bias.dtype != q.dtype:
            # torch would make this from the mask itself, and hold one for each layer.
            self.bias = torch.zeros_like(self.mask, dtype=q.dtype)
            self.bias.masked_fill_(~self.mask, float("-inf"))
        return merge_heads(
            F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias, dropout_p=dropout)
        )


class GroupedAttention:
    """Plain causal attention over groups of documents of similar length, padded on the right.

    On a CPU this is far faster than a dense mask. It is exact: a causal query sees nothing to its
    right, so padding needs no mask; the outputs of padding are dropped. Up to ``PLAIN_LENGTH`` two
    batched matrix products and a softmax take half the time of the fused kernel in bf16, and the
    same time in fp32.

    One longer document, or dropout, sends all groups through a gather and operations for each
    group, in place of ``CausalGroups``. Sums round elsewhere there, so in half precision the last
    bits of a short document depend on whether a long one is in its batch.
    """

    PLAIN_LENGTH = 512

    def __init__(self, cu_seqlens: Tensor):
        bounds = cu_seqlens.numpy().astype(np.int64)
        bounds = bounds[np.diff(bounds, prepend=-1) > 0]
        order = np.argsort(-np.diff(bounds), kind="stable")
        starts, lengths = bounds[:-1][order], np.diff(bounds)[order]
        sizes = _group_sizes(lengths.tolist())
        firsts = np.cumsum(sizes) - sizes
        # Each group: documents, their padded length.
        self.groups = list(zip(sizes, lengths[firsts].tolist(), strict=True))
        padded = np.repeat(lengths[firsts], sizes)
        document = np.repeat(np.arange(len(padded)), padded)  # of each slot
        offset = np.arange(len(document)) - (np.cumsum(padded) - padded)[document]
        inside = offset < lengths[document]
        # Padding repeats the first position of its document; any finite value would do.
        gather = starts[document] + np.where(inside, offset, 0)
        slots = np.empty(bounds[-1], dtype=np.int64)  # the slot of each position
        slots[gather[inside]] = np.flatnonzero(inside)
        self.gather, self.slots = torch.from_numpy(gather), torch.from_numpy(slots)
        self.head_rows: dict[int, HeadRows] = {}  # by the number of heads

    def __call__(self, qkv: Tensor, num_heads: int, layer: int, dropout: float) -> Tensor:
        batch, length, width = qkv.shape
        if not dropout and self.groups[0][1] <= self.PLAIN_LENGTH:
            rows = self._head_rows(num_heads)
            return CausalGroups.apply(qkv.reshape(batch * length, width), rows).view(
                batch, length, width // 3
            )
        rows = _ToSlots.apply(qkv.reshape(batch * length, width), self.gather, self.slots)
        outputs = []
        sizes = [count * padded for count, padded in self.groups]
        for (count, padded), group in zip(self.groups, rows.split(sizes), strict=True):
            q, k, v = split_heads(group.view(count, padded, width), num_heads)
            attend = _plain_causal if padded <= self.PLAIN_LENGTH else _fused_causal
            outputs.append(merge_heads(attend(q, k, v, dropout)).flatten(0, 1))
        packed = _FromSlots.apply(torch.cat(outputs), self.slots)
        return packed.view(batch, length, width // 3)

    def _head_rows(self, num_heads: int) -> HeadRows:
        if num_heads not in self.head_rows:
            self.head_rows[num_heads] = HeadRows(self.groups, self.gather, self.slots, num_heads)
        return self.head_rows[num_heads]


def _fused_causal(q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout)


def _plain_causal(q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
    """The same by its definition: softmax(q k' / sqrt(d)) v, without later positions."""
    length = q.shape[2]
    future = torch.full((length, length), float("-inf"), dtype=q.dtype, device=q.device).triu(1)
    scores = q * q.shape[3] ** -0.5 @ k.transpose(2, 3) + future
    return F.dropout(scores.softmax(-1), dropout) @ v


def _group_sizes(lengths: list[int]) -> list[int]:
    """Return the sizes of groups of descending ``lengths``, padded by up to 16 positions or 15%."""
    sizes: list[int] = []
    longest = 0
    for length in lengths:
        if sizes and length >= min(longest - 16, math.ceil(longest * 0.85)):
            sizes[-1] += 1
        else:
            sizes.append(1)
            longest = length
    return sizes


class _ToSlots(torch.autograd.Function):
    """(N, W) -> (slots, W). Each position has one slot, so the gradient is a gather too."""

    @staticmethod
    def forward(ctx, x: Tensor, gather: Tensor, slots: Tensor) -> Tensor:
        ctx.save_for_backward(slots)
        return x.index_select(0, gather)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        (slots,) = ctx.saved_tensors
        return grad.index_select(0, slots), None, None


class _FromSlots(torch.autograd.Function):
    """(slots, W) -> (N, W); padding slots get no gradient."""

    @staticmethod
    def forward(ctx, x: Tensor, slots: Tensor) -> Tensor:
        ctx.save_for_backward(slots)
        ctx.num_slots = len(x)
        return x.index_select(0, slots)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (slots,) = ctx.saved_tensors
        zeros = grad.new_zeros(ctx.num_slots, grad.shape[1])
        return zeros.index_copy_(0, slots, grad), None
