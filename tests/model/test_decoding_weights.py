import subprocess
import sys

import pytest
import torch

from src.model.decoder import Decoder
from src.model.decoding_weights import (
    Bf16Linear,
    DecodingWeights,
    Fp32Linear,
    Int8Head,
    Int8Linear,
)
from tests.conftest import greedy
from tests.model.conftest import random_model, tiny_config

SIZES = [(64, 96), (400, 400)]  # (in, out); the second does not stay in a processor's cache


def error(linear, width, out, rows=1, with_bias=True) -> float:
    """How far a product is from the exact one, as a share of the size of its factors."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(out, width, generator=generator)
    weight *= torch.rand(out, 1, generator=generator) * 10  # outputs of different sizes
    bias = torch.randn(out, generator=generator) if with_bias else None
    x = torch.randn(rows, width, generator=generator)
    expected = torch.nn.functional.linear(x.double(), weight.double(), None)
    expected += bias.double() if with_bias else 0
    with torch.inference_mode():
        actual = linear(weight, bias)(x)
    assert actual.shape == (rows, out)
    size = x.norm(dim=1)[:, None] * weight.norm(dim=1)
    return float(((actual - expected).abs() / size).mean())


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize(("width", "out"), SIZES)
@pytest.mark.parametrize(
    ("linear", "most"), [(Fp32Linear, 1e-7), (Bf16Linear, 5e-4), (Int8Linear, 2e-3)]
)
def test_every_product_is_as_near_as_its_weights_allow(linear, most, width, out, rows, with_bias):
    assert error(linear, width, out, rows, with_bias) < most


@pytest.mark.parametrize("rows", [1, 5])
def test_without_the_processors_instructions_the_products_are_the_same(monkeypatch, rows):
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    for linear, most in ((Fp32Linear, 1e-7), (Int8Linear, 2e-3)):
        assert error(linear, 400, 400, rows) < most


def test_a_row_of_int8_does_not_depend_on_its_neighbours():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 64, generator=generator)
    with torch.inference_mode():
        linear = Int8Linear(torch.randn(96, 64, generator=generator), torch.zeros(96))
        beside = linear(torch.cat([x, torch.full((1, 64), 1000.0)]))[:3]
        torch.testing.assert_close(beside, linear(x), atol=0, rtol=0)
        torch.testing.assert_close(beside[:1], linear(x[:1]), atol=0.1, rtol=0)


def test_nothing_times_a_weight_is_nothing():
    for linear in (Fp32Linear, Bf16Linear, Int8Linear, Int8Head):
        with torch.inference_mode():
            for rows in (1, 2):
                assert not linear(torch.randn(96, 64), None)(torch.zeros(rows, 64)).any()
                assert not linear(torch.zeros(96, 64), None)(torch.randn(rows, 64)).any()


@pytest.mark.parametrize("weights", ["bf16", "int8"])
def test_a_model_of_few_bits_scores_almost_as_one_of_fp32(weights):
    model = random_model(tiny_config(n_embd=128, vocab_size=503))
    prompts = [[1, 2, 3, 4], [9, 8, 7]]
    scores = {}
    for kind in ("fp32", weights):
        decoder = Decoder(model, 2, kind)
        decoder.join(prompts, [greedy(9)] * 2)
        tokens, at = torch.tensor([5, 6]), torch.tensor([4, 3])
        with torch.inference_mode():
            attend = decoder.cache.step(at, 5, same=False)
            packed = decoder.weights
            scores[kind] = packed.logits(packed.forward(tokens, at, attend))
    difference = (scores[weights] - scores["fp32"]).std() / scores["fp32"].std()
    assert 0 < difference < 0.05
    assert scores[weights].dtype == torch.float32


def test_int8_says_nothing_that_is_torchs():
    """torch warns once a process, so it is asked in a new one."""
    code = (
        "import torch; from src.model.decoding_weights import Int8Linear;"
        "Int8Linear(torch.randn(96, 64), None)(torch.randn(2, 64))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""


@pytest.mark.parametrize("weights", ["bf16", "int8"])
def test_a_head_keeps_its_scores_beside_a_very_large_dimension(weights):
    """As in GPT-2: one dimension of the last hidden states is 200, and makes all scores -112."""
    model = random_model(tiny_config(n_embd=128, vocab_size=2003))
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(64, 128, generator=generator)
    hidden[:, 5] = 200 + 5 * torch.randn(64, generator=generator)
    with torch.no_grad():
        model.wte.weight[:, 5] = -0.56 + 0.003 * torch.randn(2003, generator=generator)
    exact = torch.nn.functional.linear(hidden, model.wte.weight.detach())
    with torch.inference_mode():
        scores = DecodingWeights(model, weights).logits(hidden)
        one = DecodingWeights(model, weights).logits(hidden[:1])
    error = scores - exact
    assert error.std() < 0.15 * exact.std(1).mean()  # 0.7 where the inputs have 8 bits
    assert error.mean().abs() < 0.1, "a repetition penalty needs the scores themselves"
    assert (scores.argmax(1) == exact.argmax(1)).float().mean() > 0.85
    torch.testing.assert_close(one, scores[:1], atol=0.01, rtol=0)
