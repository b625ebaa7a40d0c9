"""A GPT-2's weights as decoding wants them: few rows at a time, so that reading weights is the cost.

On a CPU a step is as long as its weights are big, if the kernels keep up with the memory. oneDNN's
do, torch's plain matrix-vector product does not:

- fp32: the model's own weights. One row goes to oneDNN, several to torch.
- bf16: half the bytes, in oneDNN's blocked layout. Head as in int8.
- int8: a quarter, with a scale for each output (Dettmers et al., arXiv:2208.07339, without
  outliers) and, for the integer instructions (VNNI), inputs of 8 bits with a scale for each row.

Elsewhere, and on a CPU without those instructions, plain products do the same, and int8 only
saves memory. Norms, embeddings and what adds up (the residual path) are always fp32.

Shape letters: N rows (tokens read at once), D width, V vocabulary.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.model.gpt2 import GPT2

Attend = Callable[[Tensor, int], Tensor]  # qkv (N, 3D), number of the layer -> (N, D)

CACHED_BYTES = 2**19  # a weight that stays in the processor's cache needs no oneDNN


class Linear(Protocol):
    """A product with a weight and, where there is one, a bias."""

    def __call__(self, x: Tensor) -> Tensor:
        """Return (N, out) of ``x`` (N, in)."""
        ...


class Norm(NamedTuple):
    """A layer norm."""

    weight: Tensor
    bias: Tensor
    epsilon: float

    def __call__(self, x: Tensor) -> Tensor:
        """Return (N, D)."""
        return torch.layer_norm(x, self.weight.shape, self.weight, self.bias, self.epsilon)


class Layer(NamedTuple):
    """One block, in the order in which it computes."""

    ln_1: Norm
    c_attn: Linear
    attn_proj: Linear
    ln_2: Norm
    c_fc: Linear
    activation: Callable[[Tensor], Tensor]
    mlp_proj: Linear


class DecodingWeights:
    """A model to decode with, without what only training needs.

    Args:
        model: fp32 weights are its own; bf16 and int8 are copies of what they are now.
        weights: fp32, bf16 or int8.
    """

    def __init__(self, model: GPT2, weights: str):
        on_cpu = model.wte.weight.device.type == "cpu"
        linear = {"fp32": Fp32Linear, "bf16": Bf16Linear, "int8": Int8Linear}[weights]
        self.config = model.config
        self.dtype = torch.bfloat16 if weights == "bf16" else torch.float32  # of keys and values
        with torch.inference_mode():
            self.wte, self.wpe = model.wte.weight.detach(), model.wpe.weight.detach()
            self.layers = [
                Layer(
                    _norm(block.ln_1),
                    _pack(linear, block.attn.c_attn),
                    _pack(linear, block.attn.c_proj),
                    _norm(block.ln_2),
                    _pack(linear, block.mlp.c_fc),
                    block.mlp.activation,
                    _pack(linear, block.mlp.c_proj),
                )
                for block in model.h
            ]
            self.ln_f = _norm(model.ln_f)
            # Scores of 8 bits would tie: the bf16 product has no wider output.
            head = Int8Linear if weights == "bf16" and on_cpu else linear
            self.head = head(self.wte, None)

    def forward(self, ids: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Return the last hidden states (N, D) of tokens ``ids`` (N,) at ``positions`` (N,)."""
        x = F.embedding(ids, self.wte) + F.embedding(positions, self.wpe)
        for number, layer in enumerate(self.layers):
            x = x + layer.attn_proj(attend(layer.c_attn(layer.ln_1(x)), number))
            x = x + layer.mlp_proj(layer.activation(layer.c_fc(layer.ln_2(x))))
        return self.ln_f(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return next-token scores (N, V) in fp32 of hidden states (N, D)."""
        return self.head(hidden).float()


def _norm(norm: nn.LayerNorm) -> Norm:
    return Norm(norm.weight.detach(), norm.bias.detach(), norm.eps)


def _pack(linear: Callable[[Tensor, Tensor | None], Linear], module: nn.Linear) -> Linear:
    return linear(module.weight.detach(), module.bias.detach())


class Fp32Linear:
    """The reference."""

    def __init__(self, weight: Tensor, bias: Tensor | None):
        self.weight, self.bias = weight, bias
        is_large = weight.nbytes > CACHED_BYTES
        self.has_onednn = is_large and _is_cpu(weight) and torch.backends.mkldnn.is_available()

    def __call__(self, x: Tensor) -> Tensor:
        if self.has_onednn and len(x) == 1:
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return F.linear(x, self.weight, self.bias)


class Bf16Linear:
    """Weights, inputs and outputs of bf16."""

    def __init__(self, weight: Tensor, bias: Tensor | None):
        self.weight = weight.bfloat16()
        self.bias = None if bias is None else bias.bfloat16()
        self.has_onednn = _is_cpu(weight) and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        if self.has_onednn:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight, 1)

    def __call__(self, x: Tensor) -> Tensor:
        x = x.bfloat16()
        if self.has_onednn:
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return F.linear(x, self.weight, self.bias)


class Int8Linear:
    """Weights of 8 bits, fp32 in and out.

    With VNNI each row of inputs is rounded to 8 bits as well, by a scale of its own: what a row
    becomes does not depend on its neighbours.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None):
        self.bias = bias
        scale = weight.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny) / 127
        quantized = (weight / scale[:, None]).round_().to(torch.int8)
        self.has_vnni = _is_cpu(weight) and torch.cpu._is_vnni_supported()
        if self.has_vnni:
            self.weight = torch.ops.onednn.qlinear_prepack(quantized, None)
            self.scale = scale / 127
            self.zero_points = torch.zeros(len(scale), dtype=torch.int32)
            self.middle = torch.tensor(128.5)  # rounds, for what follows cuts off
        else:
            self.weight, self.scale = quantized, scale

    def __call__(self, x: Tensor) -> Tensor:
        if not self.has_vnni:
            product = F.linear(x, self.weight.to(x.dtype)) * self.scale
            return product if self.bias is None else product + self.bias
        largest = torch.linalg.vector_norm(x, float("inf"), -1, True).clamp_min_(1e-30)
        rounded = torch.addcdiv(self.middle, x, largest, value=127).to(torch.uint8)
        product = torch.ops.onednn.qlinear_pointwise(
            rounded, 1.0, 128, self.weight, self.scale, self.zero_points, None,
            1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        if self.bias is None:
            return product.mul_(largest)
        return torch.addcmul(self.bias, product, largest)


def _is_cpu(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"
