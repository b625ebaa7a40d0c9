"""A GPT-2's weights, laid out once for decoding: few rows at a time, over and over.

Shape letters: N rows (tokens read at once), D width, V vocabulary.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.model.gpt2 import GPT2

Linear = Callable[[Tensor], Tensor]  # (N, in) -> (N, out)


class Norm(NamedTuple):
    """A layer norm's weights."""

    weight: Tensor
    bias: Tensor
    epsilon: float

    def __call__(self, x: Tensor) -> Tensor:
        """Return (N, D)."""
        return torch.layer_norm(x, self.weight.shape, self.weight, self.bias, self.epsilon)


class Layer(NamedTuple):
    """One block's weights, in the order in which they are used."""

    ln_1: Norm
    c_attn: Linear
    attn_proj: Linear
    ln_2: Norm
    c_fc: Linear  # with the activation
    mlp_proj: Linear


class DecodingWeights:
    """Embeddings, layers and head, as ``weights`` says: fp32, bf16 or int8."""

    def __init__(self, model: GPT2, weights: str):
        self.config = model.config
        self.wte, self.wpe = model.wte.weight, model.wpe.weight
        self.layers = [
            Layer(
                _norm(block.ln_1),
                _linear(block.attn.c_attn),
                _linear(block.attn.c_proj),
                _norm(block.ln_2),
                _activated(_linear(block.mlp.c_fc), block.mlp.activation),
                _linear(block.mlp.c_proj),
            )
            for block in model.h
        ]
        self.ln_f = _norm(model.ln_f)
        self.head: Linear = lambda x: F.linear(x, model.wte.weight)


def _norm(norm: nn.LayerNorm) -> Norm:
    return Norm(norm.weight, norm.bias, norm.eps)


def _linear(linear: nn.Linear) -> Linear:
    return lambda x: F.linear(x, linear.weight, linear.bias)


def _activated(linear: Linear, activation: Callable[[Tensor], Tensor]) -> Linear:
    return lambda x: activation(linear(x))
