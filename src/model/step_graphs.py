"""A step on a GPU as one launch: captured CUDA graphs, whose shapes never change.

All rows of the cache take part. Those that nobody decodes read some token at the last position,
which no prompt and no remembered row reaches.
"""

import torch
from torch import Tensor

from src.model.decoding_weights import DecodingWeights
from src.model.kv_cache import KVCache

LENGTH_MULTIPLE = 128  # a graph for so many positions in use, one for twice as many, and so on


class StepGraphs:
    """One graph for each range of lengths, captured when it is first needed."""

    def __init__(self, weights: DecodingWeights, cache: KVCache):
        self.weights, self.cache = weights, cache
        _, self.num_rows, _, self.num_positions, _ = cache.data.shape
        device = cache.data.device
        self.inputs = torch.zeros((2, self.num_rows), dtype=torch.long, device=device)
        self.graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        self.pool = torch.cuda.graph_pool_handle()

    def __call__(self, ids: list[int], positions: list[int]) -> Tensor:
        """Return next-token scores (N, V) of the first rows; valid until the next call."""
        num_idle = self.num_rows - len(ids)
        inputs = [ids + [0] * num_idle, positions + [self.num_positions - 1] * num_idle]
        self.inputs.copy_(torch.tensor(inputs))
        length = -(-(max(positions) + 1) // LENGTH_MULTIPLE) * LENGTH_MULTIPLE
        length = min(length, self.num_positions)
        if length not in self.graphs:
            self.graphs[length] = self._capture(length)
        graph, logits = self.graphs[length]
        graph.replay()
        return logits[: len(ids)]

    def _capture(self, length: int) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        warmup = torch.cuda.Stream()
        warmup.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(warmup):
            for _ in range(2):  # kernels are chosen and loaded outside the capture
                self._step(length)
        torch.cuda.current_stream().wait_stream(warmup)
        graph = torch.cuda.CUDAGraph()
        # Other threads, as the one that pins batches, may use the device meanwhile.
        with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
            logits = self._step(length)
        return graph, logits

    def _step(self, length: int) -> Tensor:
        ids, positions = self.inputs
        attend = self.cache.step(positions, length, same=False)
        return self.weights.logits(self.weights.forward(ids, positions, attend))
