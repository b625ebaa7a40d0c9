"""Keys and values of the earlier positions of sequences: decoding reads each token once.

Shape letters: R rows, one a sequence; P positions; T positions in use; D width; H heads; N tokens.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from src.model.config import GPT2Config
from src.model.decoding_weights import Attend


class Span(NamedTuple):
    """Positions ``start`` to ``end`` of a row, without ``end`` itself."""

    row: int
    start: int
    end: int


class KVCache:
    """A static cache of ``num_rows`` sequences of up to ``num_positions``.

    On a CPU a position takes memory only after it is written.
    """

    def __init__(
        self,
        config: GPT2Config,
        num_rows: int,
        num_positions: int,
        dtype: torch.dtype,
        device: torch.device,
    ):
        self.num_heads = config.n_head
        shape = (
            config.n_layer,
            num_rows,
            2 * config.n_head,  # keys, then values
            num_positions,
            config.n_embd // config.n_head,
        )
        self.data = torch.zeros(shape, dtype=dtype, device=device)

    def read(self, spans: Sequence[Span]) -> Attend:
        """Return the attention of many positions of several rows at once, row after row.

        Every position attends to itself and to those before it in its row.
        """
        heads = self.num_heads
        sizes = [span.end - span.start for span in spans]
        masks = [self._mask(span) for span in spans]

        def attend(qkv: Tensor, layer: int) -> Tensor:
            split = qkv.to(self.data.dtype).view(len(qkv), 3 * heads, -1).transpose(0, 1)
            attended = []
            for part, span, mask in zip(split.split(sizes, 1), spans, masks, strict=True):
                cache = self.data[layer, span.row]
                cache[:, span.start : span.end] = part[heads:]
                past = cache[None, :, : span.end]
                attended.append(
                    F.scaled_dot_product_attention(
                        part[None, :heads],
                        past[:, :heads],
                        past[:, heads:],
                        attn_mask=mask,
                        is_causal=mask is None,
                    )
                )
            return torch.cat(attended, 2)[0].transpose(0, 1).flatten(1)

        return attend

    def _mask(self, span: Span) -> Tensor | None:
        """Return which positions each one sees (T, P); None: the causal mask."""
        if not span.start:
            return None
        shape = (span.end - span.start, span.end)
        return torch.ones(shape, dtype=torch.bool, device=self.data.device).tril(span.start)

    def step(self, positions: Tensor, length: int, same: bool) -> Attend:
        """Return the attention of one position of each of the first N rows.

        Args:
            positions: (N,) int64.
            length: T, at least that of the longest row.
            same: whether all rows have that length.
        """
        heads, num_rows = self.num_heads, len(positions)
        past = self.data[:, :num_rows, :, :length]
        layers = list(
            zip(
                past[:, :, :heads].unbind(), past[:, :, heads:].unbind(), past.unbind(), strict=True
            )
        )
        last = self.data[:, :num_rows, :, length - 1 : length].unbind() if same else None
        rows = mask = None
        if not same:
            device = self.data.device
            rows = torch.arange(num_rows, device=device)
            after = torch.arange(length, device=device) > positions[:, None]
            mask = torch.zeros(after.shape, dtype=self.data.dtype, device=device)
            mask = mask.masked_fill_(after, float("-inf"))[:, None, None]

        def attend(qkv: Tensor, layer: int) -> Tensor:
            split = qkv.to(self.data.dtype).view(num_rows, 3 * heads, 1, -1)
            query, new = split.split((heads, 2 * heads), 1)
            keys, values, both = layers[layer]
            if last is not None:
                last[layer].copy_(new)
            else:
                both[rows, :, positions] = new[:, :, 0]
            attended = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
            return attended.reshape(num_rows, -1)

        return attend

    def move(self, source: int, target: int, length: int) -> None:
        """Put the first ``length`` positions of one row into another."""
        self.data[:, target, :, :length] = self.data[:, source, :, :length]
