"""Products of few rows with a model's weights, where reading the weights takes the time.

On a CPU torch's plain product does not keep up with the memory, above all with one to eight rows:

- fp32: the model's own weights, multiplied by oneDNN.
- fp16: half the bytes, inputs and sums in fp32. FBGEMM (Khudia et al., arXiv:2101.05615) widens the
  weights in registers, at the memory's speed. It packs them once, on x86 alone: elsewhere they are
  widened before a product of fp32, which is of the same numbers.
- bf16: half the bytes, in oneDNN's blocked layout, with inputs of bf16.
- int8: a quarter of the bytes, with a scale for each output. The inputs have 8 bits too, with a
  scale for each row: oneDNN multiplies integers, on processors with VNNI. Elsewhere a plain product
  does the same, and int8 only saves memory.

Shape letters: N rows (tokens read at once), D width.
"""

import platform
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CACHED_BYTES = 2**19  # a smaller weight stays in the processor's cache and needs no oneDNN
TINY = torch.finfo(torch.float32).tiny  # instead of a divisor of zero
PACKED_OUTPUTS = 3072  # FBGEMM takes 20 to 40 ns to pack a weight, of more outputs 350
LEAST = 1e-30  # of a row's largest number, whose inverse is a float too
INT8 = 127
WHOLE = 1.5 * 2.0**23  # floats about it are whole numbers: adding it rounds
FP16 = torch.finfo(torch.float16).max


class Linear:
    """A product with a weight and perhaps a bias.

    On a GPU ``weight`` is (out, in), to be multiplied by ``scale`` (out,) unless that is None; on a
    CPU its layout may be the library's.
    """

    weight: Any
    bias: Tensor | None
    scale: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Return (N, out) of ``x`` (N, in)."""
        raise NotImplementedError

    def gelu(self, x: Tensor, approximate: str) -> Tensor:
        """Return GELU of the product (N, out), in its form of torch's name."""
        return F.gelu(self(x), approximate=approximate)

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        """Return the product plus ``residual`` (N, out), which it may overwrite."""
        return residual.add_(self(x))


class Fp32Linear(Linear):
    """The reference."""

    def __init__(self, weight: Tensor, bias: Tensor | None):
        self.weight, self.bias = weight, bias
        is_large = weight.nbytes > CACHED_BYTES
        self.has_onednn = is_large and is_cpu(weight) and torch.backends.mkldnn.is_available()

    def __call__(self, x: Tensor) -> Tensor:
        if self.has_onednn:
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return F.linear(x, self.weight, self.bias)

    def gelu(self, x: Tensor, approximate: str) -> Tensor:
        """Return GELU of the product, in its kernel."""
        if not self.has_onednn:
            return super().gelu(x, approximate)
        return torch.ops.mkldnn._linear_pointwise(
            x, self.weight, self.bias, "gelu", [], approximate
        )

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        """Return the product plus ``residual``, in its kernel."""
        if not self.has_onednn:
            return super().add(x, residual)
        return torch.ops.mkldnn._linear_pointwise.binary(x, residual, self.weight, self.bias, "add")


class Fp16Linear(Linear):
    """Weights of 16 bits in fp32 arithmetic: a row is the same beside any others."""

    def __init__(self, weight: Tensor, bias: Tensor | None):
        self.bias = bias
        self.is_packed = has_fbgemm(weight)
        self.weight = _pack_fp16(weight, bias) if self.is_packed else weight.half()

    def __call__(self, x: Tensor) -> Tensor:
        if not self.is_packed:
            return F.linear(x, self.weight.float(), self.bias)
        parts = [torch.ops.quantized.linear_dynamic_fp16(x, part) for part in self.weight]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


class Fp16Head(Fp16Linear):
    """A head of 16 bits for scores that differ by far less than they are large.

    GPT-2's scores lie around -100, with what all tokens share, the mean of the rows: multiplied in
    fp32, it takes no bits from what tells them apart.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None):
        self.common = weight.mean(0)
        super().__init__(weight - self.common, bias)

    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x).add_((x @ self.common)[:, None])


class Bf16Linear(Linear):
    """Weights, inputs and outputs of bf16."""

    def __init__(self, weight: Tensor, bias: Tensor | None):
        self.weight = weight.bfloat16()
        self.bias = None if bias is None else bias.bfloat16()
        has_onednn = is_cpu(weight) and torch.backends.mkldnn.is_available()
        self.has_onednn = has_onednn and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        if self.has_onednn:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight, 1)

    def __call__(self, x: Tensor) -> Tensor:
        x = x.bfloat16()
        if self.has_onednn:
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return F.linear(x, self.weight, self.bias)


class Int8Linear(Linear):
    """Weights of 8 bits, fp32 in and out.

    With VNNI the inputs are rounded to 8 bits too, each row with its own scale: the result of a row
    does not depend on other rows.
    """

    scale: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None):
        self.bias = bias
        self.scale = weight.abs().amax(1).clamp_min_(TINY) / INT8
        self.weight: Any = (weight / self.scale[:, None]).round_().to(torch.int8)
        self.has_vnni = has_vnni(weight)
        if self.has_vnni:
            self.weight = torch.ops.onednn.qlinear_prepack(self.weight, None)
            self.zero_points = torch.zeros(len(self.scale), dtype=torch.int32)
            self.most, self.whole = torch.tensor(float(INT8)), torch.tensor(WHOLE)

    def __call__(self, x: Tensor) -> Tensor:
        if not self.has_vnni:
            product = F.linear(x, self.weight.to(x.dtype)).mul_(self.scale)
            return product if self.bias is None else product.add_(self.bias)
        if len(x) == 1:
            return torch.ops.onednn.qlinear_pointwise(*self._one(x), "none", [], "")
        largest = torch.linalg.vector_norm(x, torch.inf, 1, keepdim=True)
        rounded = torch.addcmul(self.whole, x, self.most / largest).view(torch.int32)
        product = torch.ops.onednn.qlinear_pointwise(
            *self._arguments(rounded, 1 / INT8, None), "none", [], ""
        )
        if self.bias is None:
            return product.mul_(largest)
        return torch.addcmul(self.bias, product, largest)

    def gelu(self, x: Tensor, approximate: str) -> Tensor:
        """Return GELU of the product, of one row in its kernel."""
        if not (self.has_vnni and len(x) == 1):
            return super().gelu(x, approximate)
        return torch.ops.onednn.qlinear_pointwise(*self._one(x), "gelu", [], approximate)

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        """Return the product plus ``residual``, of one row in its kernel."""
        if not (self.has_vnni and len(x) == 1):
            return super().add(x, residual)
        rounded, scale, zero_point, *weight, bias, out_scale, out_zero_point, dtype = self._one(x)
        return torch.ops.onednn.qlinear_pointwise.binary(
            *(rounded, scale, zero_point, *weight, residual, bias, out_scale, out_zero_point),
            *(dtype, 1.0, 0, "add", 1.0, "none", [], ""),
        )

    def _one(self, x: Tensor) -> tuple[Any, ...]:
        """Return the kernel's arguments for one row, whose scale is a number."""
        largest = max(float(torch.linalg.vector_norm(x, torch.inf)), LEAST)
        rounded = torch.add(self.whole, x, alpha=INT8 / largest).view(torch.int32)
        return self._arguments(rounded, largest / INT8, self.bias)

    def _arguments(self, rounded: Tensor, scale: float, bias: Tensor | None) -> tuple[Any, ...]:
        """Return the kernel's arguments up to what follows the product.

        ``rounded`` are bits of floats, whose last 8 are the inputs.
        """
        weight = (self.weight, self.scale, self.zero_points)
        return (rounded.to(torch.int8), scale, 0, *weight, bias, 1.0, 0, torch.float32)


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
        step = x.abs().amax(1, keepdim=True).clamp_min_(TINY) / INT8
        rounded = (x / step).round_().mul_(step)
        product = super().__call__(torch.cat([rounded, x - rounded]))
        return product[: len(x)].add_(product[len(x) :]).add_((x @ self.common)[:, None])


def _pack_fp16(weight: Tensor, bias: Tensor | None) -> list[torch.ScriptObject]:
    """Return FBGEMM's layout of ``weight`` (out, in), in parts of so many outputs."""
    weights = weight.split(PACKED_OUTPUTS)
    biases = (None,) * len(weights) if bias is None else bias.split(PACKED_OUTPUTS)
    return [
        torch.ops.quantized.linear_prepack_fp16(*part) for part in zip(weights, biases, strict=True)
    ]


def is_cpu(tensor: Tensor) -> bool:
    """Whether a tensor is in the processor's memory."""
    return tensor.device.type == "cpu"


def has_fbgemm(tensor: Tensor) -> bool:
    """Whether FBGEMM multiplies with ``tensor``: on x86, though torch lists it elsewhere too."""
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    return is_x86 and is_cpu(tensor) and "fbgemm" in torch.backends.quantized.supported_engines


def has_vnni(tensor: Tensor) -> bool:
    """Whether oneDNN multiplies integers with ``tensor`` at full speed."""
    has_onednn = is_cpu(tensor) and torch.backends.mkldnn.is_available()
    return has_onednn and torch.cpu._is_vnni_supported()
