"""Whether a model's weights are what its modules compute with."""

from torch import nn

from src.model.gpt2 import GPT2, MLP, Block, SelfAttention

PLAIN = (nn.Linear, nn.Embedding, nn.LayerNorm, nn.Dropout)
CONTAINERS = (GPT2, Block, SelfAttention, MLP, nn.ModuleList)


def check_plain(model: GPT2) -> None:
    """Assert that nothing wraps a weight, as adapters do, before weights are read raw.

    A wrapped module still has a ``weight``: that of the base, without what was learned.
    """
    for name, module in model.named_modules():
        is_plain = type(module) in PLAIN or isinstance(module, CONTAINERS)
        assert is_plain, f"{name} is a {type(module).__name__}: merge it before its weight is read"
