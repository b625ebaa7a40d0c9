import math

import pytest
import torch
import torch.nn.functional as F

from src.errors import UserError
from src.model.gpt2 import GPT2
from tests.model.conftest import random_model, tiny_config


def test_initialisation_is_gpt2s():
    torch.manual_seed(0)
    model = GPT2(tiny_config(n_embd=128, n_layer=8, vocab_size=1000))
    residual = 0.02 / math.sqrt(2 * 8)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all(), name
        elif parameter.dim() == 1:
            assert (parameter == 1).all(), name
        elif name == "wpe.weight":
            rms = parameter.square().mean().sqrt().item()  # slow waves have no mean of zero
            assert rms == pytest.approx(0.02, rel=0.05)
        else:
            expected = residual if name.endswith("c_proj.weight") else 0.02
            assert parameter.std().item() == pytest.approx(expected, rel=0.05), name


@pytest.mark.parametrize("width", [32, 34])
def test_the_same_distance_between_positions_is_as_far_everywhere_at_first(width):
    positions = GPT2(tiny_config(n_embd=width, n_head=2)).wpe.weight
    norms = positions.norm(dim=1)
    assert torch.allclose(norms, norms[:1].expand_as(norms))
    for distance in (1, 3):
        products = (positions[distance:] * positions[:-distance]).sum(dim=1)
        assert torch.allclose(products, products[:1].expand_as(products), atol=1e-5)
        assert products[0] < norms[0] ** 2


def test_no_position_sees_the_future(model):
    input_ids = torch.randint(97, (1, 20), generator=torch.Generator().manual_seed(0))
    changed = input_ids.clone()
    changed[0, 12] = (changed[0, 12] + 1) % 97
    with torch.no_grad():
        before, after = model(input_ids), model(changed)
    torch.testing.assert_close(before[:, :12], after[:, :12])
    assert not torch.allclose(before[:, 12:], after[:, 12:])


def test_the_activation_is_the_one_named():
    x = torch.linspace(-3, 3, 50)
    for name, approximate in (("gelu_new", "tanh"), ("gelu", "none")):
        activation = GPT2(tiny_config(activation=name)).h[0].mlp.activation
        assert torch.equal(activation(x), F.gelu(x, approximate=approximate))


def test_dropout_acts_in_training_only():
    model = random_model(tiny_config(dropout=0.5))
    input_ids = torch.arange(10)[None]
    torch.testing.assert_close(model(input_ids), model(input_ids))
    model.train()
    assert not torch.allclose(model(input_ids), model(input_ids))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_embd": 30}, "n_embd=30 must be a multiple of model.n_head=4"),
        ({"n_layer": 0}, "n_layer=0"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"activation": "relu"}, "activation=relu"),
    ],
)
def test_an_impossible_shape_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        tiny_config(**changes)
