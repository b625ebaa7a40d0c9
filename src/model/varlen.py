"""Packed documents through FlashAttention's variable-length kernel (Dao, arXiv:2307.08691)."""

import inspect

from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

# How this version of torch calls causal attention: 2.11 has another name for it.
CAUSAL = (
    {"window_size": (-1, 0)}
    if "window_size" in inspect.signature(varlen_attn).parameters
    else {"is_causal": True}
)


class VarlenAttention:
    """FlashAttention over the flattened positions, each document a sequence of its own.

    For CUDA from SM80 on, half precision, no dropout. The kernel starts a group of threads for
    each document, head and tile of ``max_seqlen`` positions, so empty documents and a
    ``max_seqlen`` above the longest document take time.
    """

    def __init__(self, cu_seqlens: Tensor, max_seqlen: int):
        self.cu_seqlens = cu_seqlens
        self.max_seqlen = max_seqlen

    def __call__(self, qkv: Tensor, num_heads: int, layer: int, dropout: float) -> Tensor:
        batch, length, width = qkv.shape
        q, k, v = qkv.view(batch * length, 3, num_heads, width // 3 // num_heads).unbind(1)
        bounds, longest = self.cu_seqlens, self.max_seqlen
        out = varlen_attn(q, k, v, bounds, bounds, longest, longest, **CAUSAL)
        # varlen_attn returns a pair only with return_aux.
        return out.reshape(batch, length, width // 3)  # type: ignore[union-attr]
