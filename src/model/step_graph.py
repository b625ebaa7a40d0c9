"""A step on a GPU as one launch: a captured CUDA graph, whose shapes never change.

It computes all rows of the cache; those without a sequence have position -1.
"""

from functools import cached_property

import torch
from torch import Tensor

from src.model.decoding_weights import DecodingWeights
from src.model.fused_step import FusedStep
from src.model.kv_cache import KVCache


class StepGraph:
    """The step of a decoder, captured at the first call; it serves all lengths.

    The graph also copies ids and positions from pinned memory, and the likeliest tokens into it.
    """

    def __init__(self, weights: DecodingWeights, cache: KVCache):
        self.step = FusedStep(weights, cache)
        num_rows, device = cache.data.shape[1], cache.data.device
        self.inputs = torch.zeros((2, num_rows), dtype=torch.long, device=device)
        self.pinned_inputs = torch.zeros((2, num_rows), dtype=torch.long, pin_memory=True)
        self.likeliest = torch.zeros(num_rows, dtype=torch.long, pin_memory=True)

    def __call__(self, ids: list[int], positions: list[int]) -> tuple[Tensor, Tensor]:
        """Return scores (N, V) and, on the CPU, likeliest next tokens (N,) of the first rows.

        They are valid until the next call.
        """
        inputs, num_rows = self.pinned_inputs.numpy(), len(ids)
        inputs[0, :num_rows], inputs[1, :num_rows] = ids, positions
        inputs[1, num_rows:] = -1
        self.graph.replay()
        torch.cuda.current_stream().synchronize()
        return self.logits[:num_rows], self.likeliest[:num_rows]

    @cached_property
    def graph(self) -> torch.cuda.CUDAGraph:
        """The captured step."""
        warmup = torch.cuda.Stream()
        warmup.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(warmup):
            for _ in range(2):  # compiles, chooses and loads the kernels before the capture
                self._step()
        torch.cuda.current_stream().wait_stream(warmup)
        graph = torch.cuda.CUDAGraph()
        # Other threads, such as the one that pins batches, may use the device meanwhile.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._step()
        return graph

    def _step(self) -> None:
        self.inputs.copy_(self.pinned_inputs, non_blocking=True)
        self.logits = self.step(*self.inputs)
        self.likeliest.copy_(self.logits.argmax(-1), non_blocking=True)
