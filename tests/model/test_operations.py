"""How many operations a token costs on a CPU, each some microseconds beside its arithmetic."""

from collections import Counter

import pytest
import torch

from src.model import products
from src.model.decoder import Decoder
from tests.conftest import greedy
from tests.model.conftest import random_model, tiny_config
from tests.operations import Operations

LAYERS = 3


def step(model, weights: str, prompts: list[list[int]], **changes) -> Counter:
    decoder = Decoder(model, len(prompts), weights)
    decoder.join(prompts, [greedy(9, **changes)] * len(prompts))
    decoder.step()
    with Operations() as operations:
        decoder.step()
    return operations.count


@pytest.fixture
def large_model(monkeypatch):
    """As in GPT-2 every weight is larger than a processor's cache."""
    monkeypatch.setattr(products, "CACHED_BYTES", 0)
    return random_model(tiny_config(n_layer=LAYERS))


needs_kernels = pytest.mark.skipif(
    not (products.has_vnni(torch.zeros(1)) and products.has_fbgemm(torch.zeros(1))),
    reason="counts those of a processor with VNNI",
)


@needs_kernels
@pytest.mark.parametrize(
    ("weights", "num_rows", "a_layer", "others"),
    [
        ("fp32", 1, 10, 11),  # 14 in a layer before bias, GELU and residual joined the products
        ("fp16", 1, 13, 13),
        ("bf16", 1, 17, 28),
        ("int8", 1, 26, 28),
        ("fp32", 8, 10, 11),
        ("fp16", 8, 13, 13),
        ("int8", 8, 33, 28),
    ],
)
def test_a_token_costs_no_more_operations_than_it_did(
    weights, num_rows, a_layer, others, large_model
):
    count = step(large_model, weights, [[1, 2, 3]] * num_rows)
    assert count.total() <= LAYERS * a_layer + others


def test_drawing_costs_the_same_for_any_number_of_rows(large_model):
    chance = {"temperature": 0.8, "top_k": 9, "top_p": 0.9}
    for changes in ({"temperature": 1.0}, chance):
        counts = [step(large_model, "fp32", [[1, 2]] * n, **changes) for n in (1, 2, 8)]
        assert counts[0] == counts[1] == counts[2]


def test_a_temperature_of_one_divides_nothing(large_model):
    assert "div" not in step(large_model, "fp32", [[1, 2]] * 8, temperature=1.0)
    assert "div" in step(large_model, "fp32", [[1, 2]] * 8, temperature=0.9)
