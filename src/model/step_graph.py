"""A step on a GPU as one launch: a captured CUDA graph, whose shapes never change.

All rows of the cache take part, those that nobody decodes at position -1.
"""

import torch
from torch import Tensor

from src.model.decoding_weights import DecodingWeights
from src.model.fused_step import FusedStep
from src.model.kv_cache import KVCache


class StepGraph:
    """The step of a decoder, captured when it is first needed; it serves all lengths."""

    def __init__(self, weights: DecodingWeights, cache: KVCache):
        self.step = FusedStep(weights, cache)
        shape = (2, cache.data.shape[1])  # ids and positions of all rows
        self.inputs = torch.zeros(shape, dtype=torch.long, device=cache.data.device)
        self.pinned = torch.zeros(shape, dtype=torch.long, pin_memory=True)
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, ids: list[int], positions: list[int]) -> tuple[Tensor, Tensor]:
        """Return scores (N, V) and likeliest next tokens (N,) of the first rows.

        They are valid until the next call, which must not come before these tokens were read.
        """
        staged, num_rows = self.pinned.numpy(), len(ids)
        staged[0, :num_rows], staged[1, :num_rows] = ids, positions
        staged[1, num_rows:] = -1
        self.inputs.copy_(self.pinned, non_blocking=True)
        if self.graph is None:
            self._capture()
        self.graph.replay()
        return self.logits[:num_rows], self.tokens[:num_rows]

    def _capture(self) -> None:
        warmup = torch.cuda.Stream()
        warmup.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(warmup):
            for _ in range(2):  # kernels are compiled, chosen and loaded outside the capture
                self.step(*self.inputs)
        torch.cuda.current_stream().wait_stream(warmup)
        self.graph = torch.cuda.CUDAGraph()
        # Other threads, as the one that pins batches, may use the device meanwhile.
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.logits = self.step(*self.inputs)
            self.tokens = self.logits.argmax(-1)
