"""The head: hidden states to scores of next tokens, in the compute type.

GPT-2's scores lie around -35 to -120, where bf16 has steps of 0.25 to 0.5. Only their differences
count, so below fp32 the mean row is taken off the head before it is rounded: scores then lie around
0, and so does the part of them that comes from the hidden states' few very large dimensions. The
rows of d loss / d scores sum to zero, so no gradient changes.

Shape letters: S positions, D width, V vocabulary.
"""

import math

import torch
from torch import Tensor, nn

from src.model.gpt2 import GPT2

CHUNK = 4096  # rows of the head that are cast at a time
MEAN_ROWS = 4096  # of the head, at least, whose mean is taken off: it need not be exact
VOCABULARY_MULTIPLE = 64  # matrix units are slow on odd sizes, and 50257 is odd


def rows_and_head(model: GPT2, hidden: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Return the hidden states (S, D) at positions ``index`` (S,), and the head."""
    assert type(model.wte) is nn.Embedding, "what wraps the embedding would be passed over here"
    rows = hidden.flatten(0, 1).index_select(0, index)
    # Inside a Function a parameter needs a gradient even under no_grad.
    return rows, model.wte.weight if torch.is_grad_enabled() else model.wte.weight.detach()


def compute_dtype(hidden: Tensor) -> torch.dtype:
    """Return the type of products with ``hidden``: autocast's, or its own."""
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype


def cast_head(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the head (V', D) in ``dtype``; below fp32 less a common row, their mean.

    V' is then a multiple of ``VOCABULARY_MULTIPLE``; new rows are zero.
    """
    if dtype not in (torch.bfloat16, torch.float16):
        return weight.to(dtype)
    num_rows, width = weight.shape
    common = weight[:: max(1, num_rows // MEAN_ROWS)].mean(0, dtype=torch.float32)
    head = weight.new_empty((num_rows + -num_rows % VOCABULARY_MULTIPLE, width), dtype=dtype)
    if weight.device.type == "cpu":  # where torch casts to ``out`` by way of a whole copy
        for rows, out in zip(weight.split(CHUNK), head[:num_rows].split(CHUNK), strict=True):
            out.copy_(rows - common)
    else:
        torch.sub(weight, common, out=head[:num_rows])
    head[num_rows:] = 0
    return head


def head_gradient(grad_scores: Tensor, rows: Tensor) -> Tensor:
    """Return d loss / d head (V', D) of ``grad_scores`` (S, V') and ``rows`` (S, D).

    In fp16 the sum over the rows can overflow for a frequent token, before any loss scale is there
    to help. Of rows divided by their number it is at most the largest row.
    """
    if rows.dtype != torch.float16:
        return grad_scores.t() @ rows
    scale = 2.0 ** math.ceil(math.log2(len(rows)))  # a power of two rounds nothing
    return (grad_scores.t() @ (rows / scale)).float().mul_(scale)
