"""Activation checkpointing changes what is kept, and nothing that comes out."""

import pytest
import torch

from src.model.attention import DenseAttention, GroupedAttention
from src.model.gpt2 import GPT2
from src.model.loss import supervised_loss
from src.training.config import LoRAConfig
from src.training.lora import add_adapters
from tests.model.conftest import random_model, tiny_config

BOUNDS = torch.tensor([0, 10, 64, 90, 128, 128], dtype=torch.int32)
IDS = torch.arange(128).view(2, 64) % 97
INDEX = torch.arange(0, 127, 2)


def gradients(model: GPT2, attention=None) -> dict[str, torch.Tensor]:
    """Also the state of the random generator afterwards."""
    model.zero_grad()
    torch.manual_seed(0)
    hidden = model(IDS, cu_seqlens=BOUNDS, attention=attention)
    supervised_loss(model, hidden, INDEX, IDS.flatten()[INDEX + 1]).loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    return found | {"random": torch.get_rng_state()}


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", [GroupedAttention, DenseAttention])
def test_the_gradients_are_the_same_to_the_last_bit(kind, dtype, dropout):
    model = random_model(tiny_config(dropout=dropout)).train()
    attention = kind(BOUNDS) if kind is GroupedAttention else kind(BOUNDS, IDS.shape)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        expected = gradients(model, attention)
        model.checkpoint_activations(True)
        actual = gradients(model, attention)
    for name, tensor in expected.items():
        assert torch.equal(tensor, actual[name]), name


def test_adapters_drop_the_same_when_they_are_computed_anew():
    pytest.importorskip("peft")
    model = random_model(tiny_config())
    add_adapters(model, LoRAConfig(4, 32.0, 0.3))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # begins at zero, so that nothing comes through
            torch.nn.init.normal_(parameter)
    model.train()
    learning = [p for p in model.parameters() if p.requires_grad]

    def gradients_of_adapters() -> list[torch.Tensor]:
        torch.manual_seed(0)
        hidden = model(IDS, cu_seqlens=BOUNDS)
        loss = supervised_loss(model, hidden, INDEX, IDS.flatten()[INDEX + 1]).loss
        return list(torch.autograd.grad(loss, learning))

    expected = gradients_of_adapters()
    model.checkpoint_activations(True)
    assert all(map(torch.equal, gradients_of_adapters(), expected))


def test_only_each_blocks_input_is_kept():
    def kept(on: bool) -> int:
        model = random_model(tiny_config(n_layer=4)).train()
        model.checkpoint_activations(on)
        storages = {}

        def pack(tensor):
            storages[id(tensor.untyped_storage())] = tensor.untyped_storage()
            return tensor

        weights = {id(p.untyped_storage()) for p in model.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            hidden = model(IDS, cu_seqlens=BOUNDS)
        assert hidden.requires_grad
        return sum(s.nbytes() for key, s in storages.items() if key not in weights)

    assert kept(True) < kept(False) / 4


@pytest.mark.slow
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_compiled_too(dropout):
    model = random_model(tiny_config(dropout=dropout)).train()
    model.compile()
    expected = gradients(model)
    model.checkpoint_activations(True)
    torch._dynamo.reset()
    actual = gradients(model)
    for name, tensor in expected.items():
        if name != "random":
            torch.testing.assert_close(actual[name], tensor, atol=1e-5, rtol=1e-4, msg=name)
