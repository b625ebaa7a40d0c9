import subprocess
import sys

import pytest
import torch

from src.errors import UserError
from src.model import products
from src.model.decoder import Decoder
from src.model.decoding_weights import DecodingWeights, choose_weights
from src.model.products import (
    Bf16Linear,
    Fp16Head,
    Fp16Linear,
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
    ("linear", "most"),
    [(Fp32Linear, 1e-7), (Fp16Linear, 3e-5), (Bf16Linear, 5e-4), (Int8Linear, 2e-3)],
)
def test_every_product_is_as_near_as_its_weights_allow(linear, most, width, out, rows, with_bias):
    assert error(linear, width, out, rows, with_bias) < most


@pytest.mark.parametrize("rows", [1, 5])
def test_without_the_processors_instructions_the_products_are_the_same(monkeypatch, rows):
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.setattr(products, "has_fbgemm", lambda tensor: False)
    for linear, most in ((Fp32Linear, 1e-7), (Fp16Linear, 3e-5), (Int8Linear, 2e-3)):
        assert error(linear, 400, 400, rows) < most


@pytest.mark.parametrize("linear", [Fp16Linear, Fp16Head])
def test_fp16_is_the_same_product_with_and_without_fbgemm(linear, monkeypatch):
    """In fp32 arithmetic, of weights as fp16 rounds them; inputs are not rounded."""
    generator = torch.Generator().manual_seed(0)
    monkeypatch.setattr(products, "PACKED_OUTPUTS", 150)
    weight, bias = torch.randn(400, 300, generator=generator), None
    x = 1e5 * torch.randn(40, 300, generator=generator)  # beyond fp16
    rounded = weight.half().float()
    if linear is Fp16Linear:
        bias = torch.randn(400, generator=generator)
    else:
        common = weight.mean(0)
        rounded = (weight - common).half().float() + common
    expected = torch.nn.functional.linear(x, rounded, bias)
    for has_fbgemm in (products.has_fbgemm(weight), False):
        monkeypatch.setattr(products, "has_fbgemm", lambda tensor, found=has_fbgemm: found)
        with torch.inference_mode():
            packed = linear(weight, bias)
            assert packed.is_packed == has_fbgemm
            for rows in (1, 2, 40):
                torch.testing.assert_close(packed(x[:rows]), expected[:rows], atol=10, rtol=1e-6)


def test_a_value_beyond_fp16_is_refused_by_name_and_auto_takes_fp32():
    model = random_model(tiny_config())
    fast = products.has_fbgemm(model.wte.weight)
    assert choose_weights(model, "auto") == ("fp16" if fast else "fp32")
    with torch.no_grad():
        model.h[1].mlp.c_fc.weight[3, 4] = -65519.0  # fp16 rounds it to its largest, 65504
        model.wpe.weight[0, 0] = 1e9  # which stay fp32
    assert choose_weights(model, "auto") == "fp32"
    with pytest.raises(UserError, match=r"weights=fp16: h\.1\.mlp\.c_fc\.weight .* -?65519,"):
        DecodingWeights(model, "fp16")
    assert DecodingWeights(model, "auto").kind == "fp32"


@pytest.mark.parametrize("after", ["gelu", "add"])
@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize(("width", "out"), SIZES)
@pytest.mark.parametrize(
    "linear", [Fp32Linear, Fp16Linear, Bf16Linear, Int8Linear], ids=lambda x: x.__name__
)
def test_what_follows_a_product_is_the_same_inside_its_kernel(linear, width, out, rows, after):
    generator = torch.Generator().manual_seed(0)
    weight, x = (torch.randn(n, width, generator=generator) for n in (out, rows))
    residual = torch.randn(rows, out, generator=generator)
    atol = 0.05 if linear is Bf16Linear else 1e-4
    with torch.inference_mode():
        product = linear(weight / width**0.5, torch.randn(out, generator=generator))
        plain = product(x).float()
        if after == "add":
            expected, actual = plain + residual, product.add(x, residual.clone())
            torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)
            return
        for form in ("tanh", "none"):
            expected = torch.nn.functional.gelu(plain, approximate=form)
            actual = product.gelu(x, form).float()
            torch.testing.assert_close(actual, expected, atol=atol, rtol=0)
            assert (actual - expected).abs().mean() < atol / 10


def test_a_row_of_int8_does_not_depend_on_its_neighbours():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 64, generator=generator)
    with torch.inference_mode():
        linear = Int8Linear(torch.randn(96, 64, generator=generator), torch.zeros(96))
        beside = linear(torch.cat([x, torch.full((1, 64), 1000.0)]))[:3]
        torch.testing.assert_close(beside, linear(x), atol=0, rtol=0)
        torch.testing.assert_close(beside[:1], linear(x[:1]), atol=0.1, rtol=0)


def test_nothing_times_a_weight_is_nothing():
    for linear in (Fp32Linear, Fp16Linear, Fp16Head, Bf16Linear, Int8Linear, Int8Head):
        with torch.inference_mode():
            for rows in (1, 2):
                assert not linear(torch.randn(96, 64), None)(torch.zeros(rows, 64)).any()
                assert not linear(torch.zeros(96, 64), None)(torch.randn(rows, 64)).any()


@pytest.mark.parametrize(("weights", "most"), [("fp16", 1e-3), ("bf16", 0.05), ("int8", 0.05)])
def test_a_model_of_few_bits_scores_almost_as_one_of_fp32(weights, most):
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
    assert 0 < difference < most
    assert scores[weights].dtype == torch.float32


def test_no_product_says_anything_that_is_torchs():
    """torch warns once a process, so it is asked in a new one."""
    code = (
        "import torch; from src.model.products import Fp16Linear, Int8Linear\n"
        "for linear in (Fp16Linear, Int8Linear):"
        "    linear(torch.randn(96, 64), None)(torch.randn(2, 64))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""


@pytest.mark.parametrize("weights", ["fp16", "bf16", "int8"])
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
    if weights == "fp16":
        assert error.abs().max() < 5e-3  # 0.04 where the common part is rounded too
        return
    assert error.std() < 0.15 * exact.std(1).mean()  # 0.7 where the inputs have 8 bits
    assert error.mean().abs() < 0.1, "a repetition penalty needs the scores themselves"
    assert (scores.argmax(1) == exact.argmax(1)).float().mean() > 0.85
    torch.testing.assert_close(one, scores[:1], atol=0.01, rtol=0)


@pytest.mark.parametrize("machine", ["aarch64", "arm64"])
def test_fbgemm_packs_on_x86_alone_though_torch_lists_it_elsewhere(monkeypatch, machine):
    monkeypatch.setattr(products.platform, "machine", lambda: machine)
    assert not products.has_fbgemm(torch.zeros(2, 2))
