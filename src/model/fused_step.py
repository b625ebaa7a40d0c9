"""A decoding step on a GPU in five kernels a layer (Triton; Tillet et al., 2019).

One token reads every weight once and computes next to nothing, so the memory's speed and the number
of kernels decide. The kernel of a product also does the layer norm before it, and bias, GELU and
residual after it. Weights of 32, 16 or 8 bits are multiplied in fp32. One kernel of attention
writes the new key and value and reads the old ones, up to the position of each row, so one captured
graph serves all lengths.

Shape letters: N rows, one a sequence; D width; H heads; P positions; V vocabulary.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from src.model.decoding_weights import DecodingWeights, Norm
from src.model.kv_cache import KVCache
from src.model.products import Linear

MAX_ROWS = 4  # every row reads the weights again: for more, the library's products are faster
CHUNK = 256  # inputs that a product reads at a time
POSITIONS = 512  # that attention reads at a time
WARPS = 16  # of attention
GELU = {"none": 0, "tanh": 1, "exact": 2}


class FusedStep:
    """Scores of the next token from one token a row.

    Above ``MAX_ROWS`` rows the products are the library's; attention is always ours.

    Args:
        weights: on a GPU.
        cache: each step writes one position of each row.
    """

    def __init__(self, weights: DecodingWeights, cache: KVCache):
        self.weights, self.cache = weights, cache
        self.gelu = "tanh" if weights.config.activation == "gelu_new" else "exact"

    def __call__(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Return next-token scores (N, V) of tokens ``ids`` (N,) at ``positions`` (N,).

        A position of -1 marks a row without a sequence: its scores mean nothing, its cache does not
        change.
        """
        return (self._fused if len(ids) <= MAX_ROWS else self._plain)(ids, positions)

    def _plain(self, ids: Tensor, positions: Tensor) -> Tensor:
        def attention(qkv: Tensor, layer: int) -> Tensor:
            return attend(qkv, self.cache.data[layer], positions, self.cache.num_heads)

        hidden = self.weights.forward(ids, positions.clamp(min=0), attention)
        return self.weights.logits(hidden)

    def _fused(self, ids: Tensor, positions: Tensor) -> Tensor:
        weights = self.weights
        x = embed(ids, positions, weights.wte, weights.wpe)
        for number, layer in enumerate(weights.layers):
            qkv = linear(x, layer.c_attn, norm=layer.ln_1)
            attended = attend(qkv, self.cache.data[number], positions, self.cache.num_heads)
            x = linear(attended, layer.attn_proj, residual=x)
            hidden = linear(x, layer.c_fc, norm=layer.ln_2, gelu=self.gelu)
            x = linear(hidden, layer.mlp_proj, residual=x)
        return linear(x, weights.head, norm=weights.ln_f)


def embed(ids: Tensor, positions: Tensor, wte: Tensor, wpe: Tensor) -> Tensor:
    """Return (N, D) in fp32: the embeddings of tokens and positions, added."""
    width = wte.shape[1]
    out = torch.empty(len(ids), width, device=ids.device)
    _embed[(len(ids),)](ids, positions, wte, wpe, out, width, triton.next_power_of_2(width))
    return out


def linear(
    x: Tensor,
    product: Linear,
    *,
    norm: Norm | None = None,
    gelu: str = "none",
    residual: Tensor | None = None,
) -> Tensor:
    """Return (N, out) in fp32 of ``x`` (N, in): norm, product, bias, GELU, residual."""
    weight, bias, scale = product.weight, product.bias, product.scale
    num_rows, (num_out, num_in) = len(x), weight.shape
    out = torch.empty(num_rows, num_out, device=x.device)
    block = 4 if num_out <= 2048 else 8 if num_out <= 16384 else 16
    none = x  # a pointer that the kernel does not read
    _linear[(triton.cdiv(num_out, block), num_rows)](
        x,
        none if norm is None else norm.weight,
        none if norm is None else norm.bias,
        weight,
        none if scale is None else scale,
        none if bias is None else bias,
        none if residual is None else residual,
        out,
        0.0 if norm is None else norm.epsilon,
        num_in,
        num_out,
        norm is not None,
        scale is not None,
        bias is not None,
        residual is not None,
        GELU[gelu],
        triton.next_power_of_2(num_in),
        block,
        CHUNK,
    )
    return out


def attend(qkv: Tensor, cache: Tensor, positions: Tensor, num_heads: int) -> Tensor:
    """Return (N, D) in fp32; write the new keys and values at ``positions`` into ``cache``.

    Args:
        qkv: (N, 3D).
        cache: (rows, 2H, P, D / H) keys, then values, of one layer; its first N rows are read.
        positions: (N,) int64; -1: nothing is read or written.
        num_heads: H.
    """
    num_rows, width = len(qkv), qkv.shape[1] // 3
    size = width // num_heads
    out = torch.empty(num_rows, width, device=qkv.device)
    _attend[(num_rows, num_heads)](
        qkv,
        cache,
        positions,
        out,
        size**-0.5,
        cache.stride(0),
        cache.stride(1),
        num_heads,
        size,
        triton.next_power_of_2(size),
        POSITIONS,
        num_warps=WARPS,
    )
    return out


@triton.jit
def _embed(ids, positions, wte, wpe, out, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    inside = columns < WIDTH
    token = tl.load(ids + row)
    position = tl.maximum(tl.load(positions + row), 0)
    x = tl.load(wte + token * WIDTH + columns, mask=inside, other=0.0)
    x += tl.load(wpe + position * WIDTH + columns, mask=inside, other=0.0)
    tl.store(out + row * WIDTH + columns, x, mask=inside)


@triton.jit
def _linear(
    x,
    norm_weight,
    norm_bias,
    weight,
    scale,
    bias,
    residual,
    out,
    epsilon,
    NUM_IN: tl.constexpr,
    NUM_OUT: tl.constexpr,
    HAS_NORM: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    GELU_KIND: tl.constexpr,
    ALL_IN: tl.constexpr,
    BLOCK: tl.constexpr,
    STEP: tl.constexpr,
):
    row = tl.program_id(1)
    outputs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = outputs < NUM_OUT
    x += row * NUM_IN
    mean = 0.0
    inverse = 1.0
    if HAS_NORM:
        columns = tl.arange(0, ALL_IN)
        values = tl.load(x + columns, mask=columns < NUM_IN, other=0.0)
        mean = tl.sum(values) / NUM_IN
        centred = tl.where(columns < NUM_IN, values - mean, 0.0)
        inverse = 1.0 / tl.sqrt(tl.sum(centred * centred) / NUM_IN + epsilon)
    products = tl.zeros([BLOCK, STEP], tl.float32)
    rows = weight + outputs[:, None].to(tl.int64) * NUM_IN
    for start in tl.static_range(0, NUM_IN, STEP):
        inputs = start + tl.arange(0, STEP)
        real = inputs < NUM_IN
        values = tl.load(x + inputs, mask=real, other=0.0)
        if HAS_NORM:
            factor = tl.load(norm_weight + inputs, mask=real, other=0.0)
            offset = tl.load(norm_bias + inputs, mask=real, other=0.0)
            values = (values - mean) * inverse * factor + offset
        mask = inside[:, None] & real[None, :]
        weights = tl.load(rows + inputs[None, :], mask=mask, other=0.0)
        products += weights.to(tl.float32) * values[None, :]
    y = tl.sum(products, 1)
    if HAS_SCALE:
        y *= tl.load(scale + outputs, mask=inside, other=0.0)
    if HAS_BIAS:
        y += tl.load(bias + outputs, mask=inside, other=0.0).to(tl.float32)
    if GELU_KIND == 1:  # x * (1 + tanh(z)) / 2 is x * sigmoid(2z)
        y *= tl.sigmoid(1.5957691216057308 * (y + 0.044715 * y * y * y))
    if GELU_KIND == 2:
        y *= 0.5 * (1.0 + tl.erf(y * 0.7071067811865476))
    if HAS_RESIDUAL:
        y += tl.load(residual + row * NUM_OUT + outputs, mask=inside, other=0.0)
    tl.store(out + row * NUM_OUT + outputs, y, mask=inside)


@triton.jit
def _attend(
    qkv,
    cache,
    positions,
    out,
    scale,
    row_stride,
    head_stride,
    NUM_HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    STEP: tl.constexpr,
):
    row = tl.program_id(0)
    head = tl.program_id(1)
    columns = tl.arange(0, BLOCK)
    inside = columns < SIZE
    position = tl.load(positions + row)
    decoded = tl.where(inside, position, -1) >= 0
    qkv += row * 3 * NUM_HEADS * SIZE + head * SIZE
    query = tl.load(qkv + columns, mask=inside, other=0.0).to(tl.float32) * scale
    key = tl.load(qkv + NUM_HEADS * SIZE + columns, mask=inside, other=0.0).to(tl.float32)
    value = tl.load(qkv + 2 * NUM_HEADS * SIZE + columns, mask=inside, other=0.0).to(tl.float32)
    keys = cache + row.to(tl.int64) * row_stride + head * head_stride
    values = keys + NUM_HEADS * head_stride
    tl.store(keys + position * SIZE + columns, key, mask=decoded)
    tl.store(values + position * SIZE + columns, value, mask=decoded)
    # The new position comes first, from registers; then the earlier ones, from the cache.
    largest = tl.sum(query * key)
    total = 1.0
    attended = value
    for start in range(0, position, STEP):
        earlier = start + tl.arange(0, STEP)
        seen = earlier < position
        mask = seen[:, None] & inside[None, :]
        offsets = earlier[:, None] * SIZE + columns[None, :]
        old_keys = tl.load(keys + offsets, mask=mask, other=0.0).to(tl.float32)
        old_values = tl.load(values + offsets, mask=mask, other=0.0).to(tl.float32)
        scores = tl.where(seen, tl.sum(old_keys * query[None, :], 1), float("-inf"))
        larger = tl.maximum(largest, tl.max(scores))
        shrink = tl.exp(largest - larger)
        shares = tl.exp(scores - larger)
        total = total * shrink + tl.sum(shares)
        attended = attended * shrink + tl.sum(shares[:, None] * old_values, 0)
        largest = larger
    tl.store(out + row * NUM_HEADS * SIZE + head * SIZE + columns, attended / total, mask=inside)
