"""Hugging Face's ``config.json`` of a GPT-2, read and written.

Defaults for keys that a file lacks are those of ``transformers.GPT2Config``.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.errors import UserError
from src.files.json_file import is_number, read_settings
from src.model.config import ACTIVATIONS, GPT2Config

FILE = "config.json"

# Names that transformers takes for the same keys.
OTHER_NAMES = {
    "n_positions": ("max_position_embeddings", "n_ctx"),
    "n_embd": ("hidden_size",),
    "n_layer": ("num_hidden_layers",),
    "n_head": ("num_attention_heads",),
}
DEFAULTS = {"vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12}
SAME_ACTIVATION = {
    "gelu_pytorch_tanh": "gelu_new",
    "gelu_fast": "gelu_new",
    "gelu_accurate": "gelu_new",
    "gelu_python_tanh": "gelu_new",
    "gelu_python": "gelu",
}


@dataclass(frozen=True)
class PretrainedConfig:
    """A ``config.json``: the shape, and what the weights have beyond ours.

    ``query_factors`` (layers): how many times larger the attention scores of each layer are than
    ours, which are q k' / sqrt(D / H).
    """

    shape: GPT2Config
    query_factors: tuple[float, ...]
    is_tied: bool  # whether the embedding is the head


def read_config(folder: Path, dropout: float, activation: str | None) -> PretrainedConfig:
    """Return the config of a model folder, with ``dropout`` and, if given, ``activation``.

    Raises:
        UserError: there is none, it is broken, or it is not that of a GPT-2 that ours can hold.
    """
    path = folder / FILE
    if not path.exists():
        hint = ""
        if (folder / "adapter_config.json").exists():
            hint = ", but that of an adapter: merge it into its base model first"
        raise UserError(f"no {FILE} in it: not a Hugging Face model folder{hint}")
    values = read_settings(path)
    _check_kind(values)
    function = values.get("activation_function", ACTIVATIONS[0])
    function = SAME_ACTIVATION.get(function, function) if isinstance(function, str) else function
    if function not in ACTIVATIONS:
        raise UserError(f"its activation_function={function!r:.100} is not supported")
    numbers = {name: _size(values, name, default) for name, default in DEFAULTS.items()}
    inner = None if values.get("n_inner") is None else _size(values, "n_inner", 0)
    epsilon = values.get("layer_norm_epsilon", 1e-5)
    if not is_number(epsilon) or epsilon < 0:
        raise UserError(f"{FILE}: layer_norm_epsilon={epsilon!r:.100} is no number from 0 on")
    deviation = values.get("initializer_range", 0.02)  # of random weights: there are none here
    shape = GPT2Config(
        **numbers,
        n_inner=None if inner == 4 * numbers["n_embd"] else inner,
        activation=activation or function,
        dropout=dropout,
        initializer_range=deviation if is_number(deviation) and 0 < deviation < 1 else 0.02,
        layer_norm_epsilon=float(epsilon),
    )
    is_tied = _switch(values, "tie_word_embeddings", True)
    return PretrainedConfig(shape, _query_factors(values, shape), is_tied)


def hugging_face_config(config: GPT2Config, end_ids: list[int]) -> dict[str, Any]:
    """Return the ``config.json`` of a shape, whose replies end with any of ``end_ids``."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": config.vocab_size,
        "n_positions": config.n_positions,
        "n_ctx": config.n_positions,
        "n_embd": config.n_embd,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_inner": config.n_inner,
        "activation_function": config.activation,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
        "resid_pdrop": config.dropout,
        "layer_norm_epsilon": config.layer_norm_epsilon,
        "initializer_range": config.initializer_range,
        "bos_token_id": end_ids[0],
        "eos_token_id": end_ids[0] if len(end_ids) == 1 else end_ids,
        "tie_word_embeddings": True,
        "dtype": "float32",
    }


def _check_kind(values: dict[str, Any]) -> None:
    """Raise UserError if the file is not that of a GPT-2 with weights as numbers."""
    architectures = values.get("architectures")
    kind = values.get("model_type")
    if kind is None and isinstance(architectures, list) and architectures:  # files of 2019
        kind = "gpt2" if str(architectures[0]).startswith("GPT2") else architectures[0]
    if kind not in (None, "gpt2"):
        raise UserError(f"model_type is {kind!s:.100}, not gpt2")
    if kind is None and not values.keys() & {"n_embd", "n_layer", "n_head"}:
        raise UserError(f"{FILE} names no model_type: it is not that of a GPT-2")
    if values.get("quantization_config") is not None:
        raise UserError("its weights are quantized (quantization_config): take the original ones")
    if _switch(values, "add_cross_attention", False):
        raise UserError("its add_cross_attention=true is not supported")


def _size(values: dict[str, Any], name: str, default: int) -> int:
    for each in (name, *OTHER_NAMES.get(name, ())):
        value = values.get(each)
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**31:
            raise UserError(f"{FILE}: {each}={value!r:.100} is no whole number from 1 on")
        return value
    return default


def _switch(values: dict[str, Any], name: str, default: bool) -> bool:
    value = values.get(name, default)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise UserError(f"{FILE}: {name}={value!r:.100} is neither true nor false")
    return value


def _query_factors(values: dict[str, Any], shape: GPT2Config) -> tuple[float, ...]:
    factor = 1.0
    if not _switch(values, "scale_attn_weights", True):
        factor = math.sqrt(shape.n_embd // shape.n_head)
    by_layer = _switch(values, "scale_attn_by_inverse_layer_idx", False)
    # A number of layers that the weights do not have is refused later, and may be any.
    layers = range(min(shape.n_layer, 10_000))
    return tuple(factor / (layer + 1) if by_layer else factor for layer in layers)
