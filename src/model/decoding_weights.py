"""A GPT-2's weights for decoding, where reading the weights takes the time.

On a CPU a step takes as long as memory needs to deliver the weights, if the kernels keep up.
torch's plain product does not, above all with two to eight rows:

- fp32: the model's own weights, multiplied by oneDNN.
- bf16: half the bytes, in oneDNN's blocked layout; the head as in int8.
- int8: a quarter of the bytes, with a scale for each output. The inputs have 8 bits too, with a
  scale for each row: FBGEMM (Khudia et al., arXiv:2101.05615) multiplies integers, on processors
  with VNNI.

Elsewhere plain products do the same, and int8 only saves memory. Norms, embeddings and the residual
path are always fp32.

Shape letters: N rows (tokens read at once), D width, V vocabulary.
"""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.model.gpt2 import GPT2
from src.model.plain import check_plain

Attend = Callable[[Tensor, int], Tensor]  # qkv (N, 3D), number of the layer -> (N, D)

CACHED_BYTES = 2**19  # a smaller weight stays in the processor's cache and needs no oneDNN
TINY = torch.finfo(torch.float32).tiny  # instead of a divisor of zero


class Linear(Protocol):
    """A product with a weight and perhaps a bias.

    On a GPU ``weight`` is (out, in), to be multiplied by ``scale`` (out,) unless that is None; on a
    CPU its layout may be the library's.
    """

    weight: Any
    bias: Tensor | None

    @property
    def scale(self) -> Tensor | None:
        """Return the factor of each output, or None."""
        ...

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
    """A model for decoding.

    Args:
        model: fp32 shares its weights; bf16 and int8 copy them.
        weights: fp32, bf16 or int8.
    """

    def __init__(self, model: GPT2, weights: str):
        check_plain(model)
        linear = LINEARS[weights]
        self.config = model.config
        # Of keys and values. A CPU without matrix units attends slower in bf16.
        is_half = weights == "bf16" and not _is_cpu(model.wte.weight)
        self.dtype = torch.bfloat16 if is_half else torch.float32
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
            if weights == "bf16" and not _has_vnni(self.wte):
                linear = Fp32Linear  # scores rounded to bf16 would often be equal
            elif weights != "fp32" and _has_vnni(self.wte):
                linear = Int8Head
            self.head = linear(self.wte, None)

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

    scale = None

    def __init__(self, weight: Tensor, bias: Tensor | None):
        self.weight, self.bias = weight, bias
        is_large = weight.nbytes > CACHED_BYTES
        self.has_onednn = is_large and _is_cpu(weight) and torch.backends.mkldnn.is_available()

    def __call__(self, x: Tensor) -> Tensor:
        if self.has_onednn:
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return F.linear(x, self.weight, self.bias)


class Bf16Linear:
    """Weights, inputs and outputs of bf16."""

    scale = None

    def __init__(self, weight: Tensor, bias: Tensor | None):
        self.weight = weight.bfloat16()
        self.bias = None if bias is None else bias.bfloat16()
        has_onednn = _is_cpu(weight) and torch.backends.mkldnn.is_available()
        self.has_onednn = has_onednn and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        if self.has_onednn:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight, 1)

    def __call__(self, x: Tensor) -> Tensor:
        x = x.bfloat16()
        if self.has_onednn:
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return F.linear(x, self.weight, self.bias)


class Int8Linear:
    """Weights of 8 bits, fp32 in and out.

    With VNNI the inputs are rounded to 8 bits too, each row with its own scale: the result of a row
    does not depend on other rows.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None):
        self.bias = bias
        self.scale = weight.abs().amax(1).clamp_min_(TINY) / 127
        self.weight: Any = (weight / self.scale[:, None]).round_().to(torch.int8)
        self.has_vnni = _has_vnni(weight)
        if self.has_vnni:
            self.weight = _pack_int8(self.weight, self.scale)

    def __call__(self, x: Tensor) -> Tensor:
        if not self.has_vnni:
            product = F.linear(x, self.weight.to(x.dtype)).mul_(self.scale)
            return product if self.bias is None else product.add_(self.bias)
        multiply = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32
        if len(x) == 1:
            scale = (float(x.abs().max()) or 1.0) / 127
            product = multiply(x, scale, 128, self.weight)
            return product if self.bias is None else product.add_(self.bias)
        largest = x.abs().amax(1, keepdim=True).clamp_min_(TINY)
        product = multiply(x / largest, 1 / 127, 128, self.weight)
        if self.bias is None:
            return product.mul_(largest)
        return torch.addcmul(self.bias, product, largest)


class Int8Head(Int8Linear):
    """A head of 8 bits for scores that differ by far less than they are large, with VNNI.

    GPT-2's last hidden states have dimensions a hundred times as large as the others, which 8 bits
    would round to nothing: they are read twice, rounded and what that left over, in one product.
    The mean of the rows, along these dimensions above all, is multiplied in fp32.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None):
        self.common = weight.mean(0)
        super().__init__(weight - self.common, bias)

    def __call__(self, x: Tensor) -> Tensor:
        step = x.abs().amax(1, keepdim=True).clamp_min_(TINY) / 127
        rounded = (x / step).round_().mul_(step)
        product = super().__call__(torch.cat([rounded, x - rounded]))
        return product[: len(x)].add_(product[len(x) :]).add_((x @ self.common)[:, None])


LINEARS: dict[str, Callable[[Tensor, Tensor | None], Linear]] = {
    "fp32": Fp32Linear,
    "bf16": Bf16Linear,
    "int8": Int8Linear,
}


def _pack_int8(weight: Tensor, scale: Tensor) -> torch.ScriptObject:
    """Return FBGEMM's layout of ``weight`` (out, in) int8 with ``scale`` (out,)."""
    zero_points = torch.zeros(len(scale), dtype=torch.long)
    # torch calls every way to make a quantised tensor deprecated, once a process, and FBGEMM packs
    # nothing else; onednn.qlinear_pointwise needs none, but takes a third more time a token.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"torch\.quantize_per_tensor, .*deprecated", UserWarning)
        quantized = torch._make_per_channel_quantized_tensor(weight, scale, zero_points, 0)
    return torch.ops.quantized.linear_prepack(quantized, None)


def _is_cpu(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"


def _has_vnni(tensor: Tensor) -> bool:
    return _is_cpu(tensor) and torch.cpu._is_vnni_supported()
