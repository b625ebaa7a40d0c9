import pytest
import torch

from src.model.config import GPT2Config
from src.model.gpt2 import GPT2


def tiny_config(**changes) -> GPT2Config:
    values = {
        "vocab_size": 97,
        "n_positions": 64,
        "n_embd": 32,
        "n_layer": 3,
        "n_head": 4,
        "activation": "gelu_new",
        "dropout": 0.0,
    }
    return GPT2Config(**values | changes)


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """The norm of the difference, in norms of ``expected``: halves round each entry."""
    expected = expected.double()
    return float((actual.double() - expected).norm() / expected.norm())


def random_model(config: GPT2Config, seed: int = 0) -> GPT2:
    """A model whose every weight matters: GPT-2's own start has zero biases and unit norms."""
    generator = torch.Generator().manual_seed(seed)
    model = GPT2(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
            if name.endswith(("ln_1.weight", "ln_2.weight", "ln_f.weight")):
                parameter += 1
    return model.eval()


@pytest.fixture
def model() -> GPT2:
    return random_model(tiny_config())
