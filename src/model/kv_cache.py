"""Keys and values of the positions that sequences have had: decoding reads each token once.

Shape letters: R rows, one a sequence; P positions; T positions in use; D width; H heads; N tokens.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from src.model.config import GPT2Config
from src.model.decoding_weights import Attend


class KVCache:
    """A static cache of ``num_rows`` sequences of up to ``num_positions``.

    On a CPU a position takes memory only once it has been written.
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

    def prompt(self, row: int, start: int, end: int) -> Attend:
        """Return what reads positions ``start`` to ``end`` of one row, (T, 3D), after earlier ones."""
        heads = self.num_heads
        mask = None
        if start:
            shape = (end - start, end)
            mask = torch.ones(shape, dtype=torch.bool, device=self.data.device).tril(start)

        def attend(qkv: Tensor, layer: int) -> Tensor:
            split = qkv.view(len(qkv), 3 * heads, -1).transpose(0, 1)  # (3H, T, D / H)
            cache = self.data[layer, row]
            cache[:, start:end] = split[heads:]
            past = cache[None, :, :end]
            attended = F.scaled_dot_product_attention(
                split[None, :heads],
                past[:, :heads],
                past[:, heads:],
                attn_mask=mask,
                is_causal=mask is None,
            )
            return attended[0].transpose(0, 1).flatten(1)

        return attend

    def step(self, positions: Tensor, length: int, same: bool) -> Attend:
        """Return what reads one position of each of the first rows, (N, 3D).

        Args:
            positions: (N,) int64.
            length: T, of the longest row.
            same: whether all rows are as long.
        """
        heads, num_rows = self.num_heads, len(positions)
        device = self.data.device
        rows = torch.arange(num_rows, device=device)
        mask = None
        if not same:
            after = torch.arange(length, device=device) > positions[:, None]
            mask = torch.zeros(after.shape, dtype=self.data.dtype, device=device)
            mask = mask.masked_fill_(after, float("-inf"))[:, None, None]

        def attend(qkv: Tensor, layer: int) -> Tensor:
            split = qkv.view(num_rows, 3 * heads, -1)
            cache = self.data[layer]
            cache[rows, :, positions] = split[:, heads:]
            past = cache[:num_rows, :, :length]
            attended = F.scaled_dot_product_attention(
                split[:, :heads, None], past[:, :heads], past[:, heads:], attn_mask=mask
            )
            return attended.view(num_rows, -1)

        return attend

    def move(self, source: int, target: int, length: int) -> None:
        """Put the first ``length`` positions of one row into another."""
        self.data[:, target, :, :length] = self.data[:, source, :, :length]
