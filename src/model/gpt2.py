"""GPT-2 (Radford et al., 2019), in the names of OpenAI's release.

Shape letters: B sequences, T positions, D width, H heads, V vocabulary.
"""

import math
from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from src.model.attention import Attention, packed_attention
from src.model.config import GPT2Config


class SelfAttention(nn.Module):
    """The projections before and after attention: query, key and value in one, and the output."""

    def __init__(self, config: GPT2Config):
        super().__init__()
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)


class MLP(nn.Module):
    """Two layers, with a hidden width of 4D unless the config says otherwise."""

    def __init__(self, config: GPT2Config):
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, config.inner_width)
        self.c_proj = nn.Linear(config.inner_width, config.n_embd)
        approximate = "tanh" if config.activation == "gelu_new" else "none"
        self.activation = partial(F.gelu, approximate=approximate)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, T, D)."""
        return self.c_proj(self.activation(self.c_fc(x)))


class Block(nn.Module):
    """Attention and MLP, each with a layer norm before it and a residual path beside it.

    With ``activation_checkpointing`` the block keeps only its input for the backward pass, which
    computes the rest again (Chen et al., arXiv:1604.06174).
    """

    activation_checkpointing = False

    def __init__(self, config: GPT2Config, layer: int):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attn = SelfAttention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp = MLP(config)
        self.drop = nn.Dropout(config.dropout)
        self.num_heads = config.n_head
        self.layer = layer

    def forward(self, x: Tensor, attention: Attention) -> Tensor:
        """Return (B, T, D)."""
        if not (self.activation_checkpointing and torch.is_grad_enabled()):
            return self._forward(x, attention)
        return checkpoint(self._forward, x, attention, use_reentrant=False)

    def _forward(self, x: Tensor, attention: Attention) -> Tensor:
        dropout = self.drop.p if self.training else 0.0
        attended = attention(self.before_attention(x), self.num_heads, self.layer, dropout)
        return self.after_attention(x, attended)

    def before_attention(self, x: Tensor) -> Tensor:
        """Return queries, keys and values (B, T, 3D)."""
        return self.attn.c_attn(self.ln_1(x))

    def after_attention(self, x: Tensor, attended: Tensor) -> Tensor:
        """Return (B, T, D)."""
        x = x + self.drop(self.attn.c_proj(attended))
        return x + self.drop(self.mlp(self.ln_2(x)))

    def compile(self) -> None:
        """Compile everything but attention, whose shapes differ from batch to batch.

        All blocks share the code, so torch compiles it once.
        """
        for name in ("before_attention", "after_attention"):
            setattr(self, name, torch.compile(getattr(self, name)))


class GPT2(nn.Module):
    """Token ids to hidden states; ``logits`` turns hidden states into scores of next tokens.

    The embedding is also the head (tied). The first weights are GPT-2's: normal with standard
    deviation ``initializer_range``, times 1 / sqrt(2 * n_layer) in projections into the residual
    path. Only the positions start as sinusoids of that deviation: a small model then finds the
    token before, and so learns to copy, many times sooner.
    """

    def __init__(self, config: GPT2Config):
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.drop = nn.Dropout(config.dropout)
        self.h: Sequence[Block] = nn.ModuleList(  # type: ignore[assignment]  # has no item type
            Block(config, layer) for layer in range(config.n_layer)
        )
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.init_weights()

    def init_weights(self) -> None:
        """Draw all weights from torch's random generator."""
        plain_std = self.config.initializer_range
        residual_std = plain_std / math.sqrt(2 * self.config.n_layer)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.dim() == 1:
                nn.init.ones_(parameter)
            else:
                std = residual_std if name.endswith("c_proj.weight") else plain_std
                nn.init.normal_(parameter, std=std)
        if self.wpe.weight.is_meta:  # arithmetic there would import torch's compiler
            return
        with torch.no_grad():
            waves = sinusoids(self.config.n_positions, self.config.n_embd)
            self.wpe.weight.copy_(plain_std * math.sqrt(2) * waves)

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        max_seqlen: int | None = None,
        attention: Attention | None = None,
    ) -> Tensor:
        """Return the last hidden states (B, T, D), after the final layer norm.

        Args:
            input_ids: (B, T) int64.
            position_ids: (B, T) int64; None: 0 ... T - 1 in every row.
            cu_seqlens: (documents + 1,) int32 boundaries of packed documents in the flattened
                B x T positions; None: every row is one document.
            max_seqlen: the length of the longest document, or more; None: T.
            attention: None: ``packed_attention`` of ``cu_seqlens``.
        """
        num_rows, length = input_ids.shape
        device = input_ids.device
        if position_ids is None:
            position_ids = torch.arange(length, device=device).expand(num_rows, length)
        if attention is None:
            if cu_seqlens is None:
                cu_seqlens = torch.arange(
                    0, num_rows * length + 1, length, dtype=torch.int32, device=device
                )
            dropout = self.config.dropout if self.training else 0.0
            attention = packed_attention(
                cu_seqlens, max_seqlen or length, (num_rows, length), dropout
            )
        x = self.drop(self.wte(input_ids) + self.wpe(position_ids))
        for block in self.h:
            x = block(x, attention)
        return self.ln_f(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return next-token scores (..., V) of hidden states (..., D)."""
        return F.linear(hidden, self.wte.weight)

    def compile(self) -> None:
        """Compile the blocks in place; names and weights stay as they are."""
        for block in self.h:
            block.compile()

    def checkpoint_activations(self, on: bool) -> None:
        """Recompute each block in the backward pass (slower, less memory), or keep its results."""
        for block in self.h:
            block.activation_checkpointing = on

    @property
    def num_parameters(self) -> int:
        """The number of weights; the tied head counts once."""
        return sum(parameter.numel() for parameter in self.parameters())


def sinusoids(num_positions: int, width: int) -> Tensor:
    """Return sines and cosines of each position (T, D), of wavelengths from 2 pi to 2 pi T.

    The same distance is the same rotation everywhere (Vaswani et al., arXiv:1706.03762, 3.5).
    """
    angles = torch.arange(num_positions)[:, None] * num_positions ** (
        -torch.arange(0, width, 2) / width
    )
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width]
