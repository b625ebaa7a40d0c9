"""The kernels of a decoding step equal the plain step.

Where there is no GPU, Triton's interpreter runs them on the CPU (``tests/conftest.py``).
"""

import importlib

import pytest
import torch

from src.model import decoding_weights, products
from src.model.decoding_weights import DecodingWeights
from src.model.kv_cache import KVCache
from tests.model.conftest import random_model, tiny_config

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
NUM_POSITIONS = 300
POSITIONS = [200, 0, -1, 128]  # the third row is not decoded


@pytest.fixture
def fused_step(monkeypatch):
    """The module, with weights as a GPU has them: nothing is packed."""
    pytest.importorskip("triton")
    for module in (products, decoding_weights):
        monkeypatch.setattr(module, "is_cpu", lambda tensor: False)
    return importlib.import_module("src.model.fused_step")


ODD = {"n_embd": 36, "n_head": 3, "activation": "gelu"}  # sizes that no block divides


@pytest.mark.parametrize(
    ("weights", "shape", "max_rows"),
    [("fp32", {}, 4), ("fp16", ODD, 4), ("bf16", ODD, 4), ("int8", ODD, 4), ("bf16", {}, 0)],
)
def test_a_fused_step_gives_the_scores_and_the_cache_of_a_plain_one(
    weights, shape, max_rows, fused_step, monkeypatch
):
    monkeypatch.setattr(fused_step, "MAX_ROWS", max_rows)
    config = tiny_config(n_positions=NUM_POSITIONS, n_layer=2, vocab_size=40, **shape)
    decoded = [row for row, position in enumerate(POSITIONS) if position >= 0]
    ids = torch.tensor([5, 9, 11, 3], device=DEVICE)
    positions = torch.tensor(POSITIONS, device=DEVICE)
    with torch.inference_mode():
        packed = DecodingWeights(random_model(config).to(DEVICE), weights)
        caches = [KVCache(config, len(ids), NUM_POSITIONS, packed.dtype, DEVICE) for _ in range(3)]
        for cache in caches:
            torch.manual_seed(1)
            cache.data.normal_()
        before, expected_cache, cache = caches
        scores = fused_step.FusedStep(packed, cache)(ids, positions)
        # The plain step has no rows that nobody decodes: each row alone.
        for row in decoded:
            one = KVCache(config, 1, NUM_POSITIONS, packed.dtype, DEVICE)
            one.data.copy_(before.data[:, row : row + 1])
            attend = one.step(positions[row, None], int(positions[row]) + 1, same=True)
            hidden = packed.forward(ids[row, None], positions[row, None], attend)
            expected = packed.logits(hidden)[0]
            expected_cache.data[:, row] = one.data[:, 0]
            tolerance = 0.1 if weights == "bf16" else 1e-4  # the plain step rounds what is between
            torch.testing.assert_close(scores[row], expected, atol=tolerance, rtol=0)
    tolerance = 0.1 if weights == "bf16" else 1e-4
    torch.testing.assert_close(cache.data, expected_cache.data, atol=tolerance, rtol=0)
    assert torch.equal(cache.data[:, 2], before.data[:, 2])
    changed = (cache.data != before.data).flatten(2).any(2).any(0)
    assert changed.tolist() == [True, True, False, True]
