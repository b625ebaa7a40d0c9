"""LoRA (Hu et al., arXiv:2106.09685) through the peft library: adapters learn, GPT-2 does not.

Each matrix W of a block becomes W + (alpha / rank) B A, where only A (rank, in) and B (out, rank)
learn. B starts at zero, so training starts from the model as it was.
"""

from typing import Any

import torch
from torch import Tensor

from src.errors import UserError
from src.model.gpt2 import GPT2
from src.model.weights_file import checksum
from src.training.config import LoRAConfig

MATRICES = ["c_attn", "c_proj", "c_fc"]
NAME = "default"  # of the adapters, in peft's state dict


def add_adapters(model: GPT2, config: LoRAConfig) -> None:
    """Put adapters beside every matrix of the blocks and freeze everything else, in place.

    ``config.rank`` is a number.

    Raises:
        UserError: peft is not installed.
    """
    assert config.rank is not None
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ModuleNotFoundError as error:
        if error.name != "peft":
            raise
        raise UserError(
            f"lora.rank={config.rank} needs the peft library: pip install 'gpt2-chat[lora]'"
        ) from error
    inject_adapter_in_model(
        LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,  # type: ignore[arg-type]  # peft multiplies any number
            lora_dropout=config.dropout,
            target_modules=MATRICES,
        ),
        model,
        NAME,
    )
    for module in _adapted(model).values():
        module.cast_input_dtype_enabled = False  # to fp32, only for autocast to cast it back


def has_adapters(model: GPT2) -> bool:
    """Whether only adapters learn."""
    return bool(_adapted(model))


def merged(model: GPT2) -> GPT2:
    """Return a plain GPT-2 with the adapters in its weights; ``model`` as it is if it has none.

    Beside the matrices that have adapters both share their weights. ``model`` does not change: to
    merge in place and undo it would change its last bits.
    """
    adapted = _adapted(model)
    if not adapted:
        return model
    state = {
        name.replace(".base_layer.", "."): tensor.detach()
        for name, tensor in model.state_dict().items()
        if ".lora_" not in name
    }
    with torch.no_grad():
        for name, module in adapted.items():
            state[f"{name}.weight"] = module.base_layer.weight + module.get_delta_weight(NAME)
    with torch.device("meta"):
        plain = type(model)(model.config)
    plain.load_state_dict(state, assign=True)
    return plain


def _adapted(model: GPT2) -> dict[str, Any]:
    return {n: m for n, m in model.named_modules() if hasattr(m, "get_delta_weight")}


def frozen_weights(model: torch.nn.Module) -> dict[str, Tensor]:
    """Return the parameters that do not learn, by name."""
    return {n: p.detach() for n, p in model.named_parameters() if not p.requires_grad}


def frozen_checksum(model: torch.nn.Module) -> str | None:
    """Return what tells one set of frozen weights from another; None: all learn."""
    frozen = {name: weight.cpu() for name, weight in frozen_weights(model).items()}
    return checksum(frozen) if frozen else None
