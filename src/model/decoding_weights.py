"""A GPT-2's weights for decoding, where reading the weights takes the time.

Each matrix is a product of ``products.py``, of 32, 16 or 8 bits. Norms, embeddings and the residual
path are always fp32.

Shape letters: N rows (tokens read at once), D width, V vocabulary.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.checks import AUTO
from src.errors import UserError
from src.model.gpt2 import GPT2
from src.model.plain import check_plain
from src.model.products import (
    FP16,
    Bf16Linear,
    Fp16Head,
    Fp16Linear,
    Fp32Linear,
    Int8Head,
    Int8Linear,
    Linear,
    has_fbgemm,
    has_vnni,
    is_cpu,
)

Attend = Callable[[Tensor, int], Tensor]  # qkv (N, 3D), number of the layer -> (N, D)

LINEARS: dict[str, Callable[[Tensor, Tensor | None], Linear]] = {
    "fp32": Fp32Linear,
    "fp16": Fp16Linear,
    "bf16": Bf16Linear,
    "int8": Int8Linear,
}


class Norm(NamedTuple):
    """A layer norm."""

    weight: Tensor
    bias: Tensor
    epsilon: float

    def __call__(self, x: Tensor) -> Tensor:
        """Return (N, D)."""
        return torch.layer_norm(x, self.weight.shape, self.weight, self.bias, self.epsilon)


class Layer(NamedTuple):
    """One block, in the order in which it computes; GELU follows ``c_fc``."""

    ln_1: Norm
    c_attn: Linear
    attn_proj: Linear
    ln_2: Norm
    c_fc: Linear
    mlp_proj: Linear


class DecodingWeights:
    """A model for decoding.

    Args:
        model: fp32 shares its weights; the others copy them.
        weights: auto, fp32, fp16, bf16 or int8.

    Raises:
        UserError: a weight is beyond fp16's range.
    """

    def __init__(self, model: GPT2, weights: str):
        check_plain(model)
        self.kind = choose_weights(model, weights)
        self.config = model.config
        # Of keys and values. A CPU without matrix units attends slower in bf16.
        is_half = self.kind == "bf16" and not is_cpu(model.wte.weight)
        self.dtype = torch.bfloat16 if is_half else torch.float32
        self.gelu = "tanh" if model.config.activation == "gelu_new" else "none"
        with torch.inference_mode():
            self.wte, self.wpe = model.wte.weight.detach(), model.wpe.weight.detach()
            linears = iter(_pack_all(self.kind, model))
            self.head = next(linears)
            self.layers = [
                Layer(
                    _norm(block.ln_1),
                    next(linears),
                    next(linears),
                    _norm(block.ln_2),
                    next(linears),
                    next(linears),
                )
                for block in model.h
            ]
            self.ln_f = _norm(model.ln_f)

    def forward(self, ids: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Return the last hidden states (N, D) of tokens ``ids`` (N,) at ``positions`` (N,)."""
        x = F.embedding(ids, self.wte).add_(F.embedding(positions, self.wpe))
        for number, layer in enumerate(self.layers):
            x = layer.attn_proj.add(attend(layer.c_attn(layer.ln_1(x)), number), x)
            x = layer.mlp_proj.add(layer.c_fc.gelu(layer.ln_2(x), self.gelu), x)
        return self.ln_f(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return next-token scores (N, V) in fp32 of hidden states (N, D)."""
        return self.head(hidden).float()


def choose_weights(model: GPT2, weights: str) -> str:
    """Return ``weights``, and for auto fp16 where it is fast and holds the model, else fp32.

    Raises:
        UserError: fp16 was asked for, and a weight is beyond its range.
    """
    if weights == AUTO:
        is_fast = has_fbgemm(model.wte.weight)
        return "fp16" if is_fast and next(_beyond_fp16(model), None) is None else "fp32"
    if weights == "fp16" and not model.wte.weight.is_meta:
        for name, value in _beyond_fp16(model):
            raise UserError(
                f"weights=fp16: {name} of the model holds {value:g}, and fp16 ends at {FP16:g}; "
                f"take weights=fp32 or weights=bf16"
            )
    return weights


def _beyond_fp16(model: GPT2) -> Iterator[tuple[str, float]]:
    """Yield name and largest absolute value of each matrix that fp16 cannot hold."""
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2 and name != "wpe.weight":
            largest = float(torch.linalg.vector_norm(parameter.detach(), torch.inf))
            if largest > FP16:
                yield name, largest


def _pack_all(kind: str, model: GPT2) -> list[Linear]:
    """Return the product of the head, then those of all layers, four each."""
    linear = LINEARS[kind]
    modules = [
        module
        for block in model.h
        for module in (block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj)
    ]
    # The head, the largest, comes first: threads are then done at the same time.
    jobs = [(_head(kind, model.wte.weight), model.wte.weight.detach(), None)]
    jobs += [(linear, module.weight.detach(), module.bias.detach()) for module in modules]
    if not (kind == "fp16" and has_fbgemm(model.wte.weight)):
        return [each(weight, bias) for each, weight, bias in jobs]

    def pack(
        job: tuple[Callable[[Tensor, Tensor | None], Linear], Tensor, Tensor | None],
    ) -> Linear:
        with torch.inference_mode():  # a thread's own
            return job[0](*job[1:])

    # FBGEMM packs with one thread.
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        return list(threads.map(pack, jobs))


def _head(kind: str, wte: Tensor) -> Callable[[Tensor, Tensor | None], Linear]:
    """Return the product of the head."""
    if kind == "fp16":
        return Fp16Head if is_cpu(wte) else Fp16Linear
    if kind == "fp32":
        return Fp32Linear
    if has_vnni(wte):
        return Int8Head
    return Int8Linear if kind == "int8" else Fp32Linear  # in bf16 scores would often be equal


def _norm(norm: nn.LayerNorm) -> Norm:
    return Norm(norm.weight.detach(), norm.bias.detach(), norm.eps)
