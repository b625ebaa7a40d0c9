"""A prompt and a step of decoding on a GPU wait for nothing, and a step launches few kernels.

Run on a stand-in (``tests/cuda_stand_in.py``). Numbers go to the GPU before and come back after.
"""

import pytest
import torch

from src.model.decoding_weights import DecodingWeights
from src.model.gpt2 import GPT2
from src.model.kv_cache import KVCache, Span
from src.model.sampling import draw
from tests.cuda_stand_in import CudaStandIn
from tests.model.conftest import tiny_config

LAYERS = 3
META = torch.device("meta")
WEIGHTS = ("fp32", "fp16", "bf16", "int8")


@pytest.fixture
def card(monkeypatch) -> CudaStandIn:
    return CudaStandIn(monkeypatch, 8, None, has_kernels=True)


def packed(weights: str, num_rows: int) -> tuple[DecodingWeights, KVCache, torch.Tensor]:
    """Return the weights, a cache, and a token of each row with its position (2, N)."""
    config = tiny_config(n_layer=LAYERS)
    with META:
        decoding = DecodingWeights(GPT2(config), weights)
        cache = KVCache(config, num_rows, config.n_positions, decoding.dtype, META)
        return decoding, cache, torch.zeros((2, num_rows), dtype=torch.long)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("start", [0, 8])
@torch.inference_mode()
def test_prompts_are_read_without_waiting(weights, start, card):
    decoding, cache, _ = packed(weights, 2)
    spans = [Span(0, start, 20), Span(1, 0, 9)]
    ids = torch.zeros(20 - start + 9, dtype=torch.long, device=META)
    with card():
        hidden = decoding.forward(ids, ids, cache.read(spans))
        logits = decoding.logits(hidden[ids[:2]])
    assert logits.shape == (2, 97)


# Today's: what one token costs where a launch takes longer than its kernel. Of three layers.
@pytest.mark.parametrize(
    ("weights", "num_rows", "most"),
    [
        ("fp32", 1, 18),
        ("fp16", 1, 18),
        ("bf16", 1, 18),
        ("int8", 1, 18),
        ("fp32", 4, 18),
        ("fp32", 8, 37),
        ("fp16", 8, 50),
        ("bf16", 8, 46),
        ("int8", 8, 75),
    ],
)
@torch.inference_mode()
def test_a_step_waits_for_nothing_and_launches_no_more_than_it_did(weights, num_rows, most, card):
    """Five kernels a layer, embedding, head and argmax, up to four rows; then the library's."""
    decoding, cache, inputs = packed(weights, num_rows)
    step = card.kernels("fused_step").FusedStep(decoding, cache)
    with card() as count:
        likeliest = step(*inputs).argmax(-1)
    assert likeliest.shape == (num_rows,)
    assert count.total() <= most


@pytest.mark.parametrize(
    ("weights", "num_rows", "most"),
    [("fp32", 1, 40), ("bf16", 1, 46), ("int8", 1, 78), ("fp32", 8, 44), ("bf16", 8, 50)],
)
@torch.inference_mode()
def test_a_step_without_our_kernels_waits_for_nothing_either(weights, num_rows, most, card):
    decoding, cache, inputs = packed(weights, num_rows)
    ids, positions = inputs
    counts = []
    for length in (10, 60):
        with card() as count:
            attend = cache.step(positions, length, same=num_rows == 1)
            likeliest = decoding.logits(decoding.forward(ids, positions, attend)).argmax(-1)
        counts.append(count.total())
    assert likeliest.shape == (num_rows,)
    assert counts[0] == counts[1] <= most  # the length adds none


@pytest.mark.parametrize("num_rows", [1, 8])
@torch.inference_mode()
def test_random_tokens_of_all_rows_are_drawn_without_waiting(num_rows, card):
    logits = torch.zeros((num_rows, 97), device=META)
    uniform = torch.zeros(num_rows, dtype=torch.float64, device=META)
    with card() as count:
        assert draw(logits, uniform).shape == (num_rows,)
    assert count.total() <= 5  # softmax, sums, one product, search, at most the last token
