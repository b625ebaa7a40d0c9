"""Hugging Face's GPT-2 folders, read and written. The one place that knows their weight names.

Differences: Hugging Face prefixes ``transformer.``, stores the four projections of a block as
``Conv1D`` (in, out) where ours are ``Linear`` (out, in), keeps old mask buffers, and leaves the
tied head out of the file. Attention scores that are scaled in another way than ours become a factor
of the query's weights.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from src import atomic
from src.errors import UserError
from src.hub import local_folder
from src.model.config import GPT2Config, ModelConfig
from src.model.finite import not_finite
from src.model.gpt2 import GPT2
from src.model.plain import check_plain
from src.model.pretrained_config import (
    FILE,
    PretrainedConfig,
    hugging_face_config,
    read_config,
)
from src.model.weights_file import WEIGHTS, checksum, folder_with_weights, read_weights

PREFIX = "transformer."
HEAD = "lm_head.weight"
EMBEDDING = "wte.weight"
TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
BUFFERS = (".attn.bias", ".attn.masked_bias")  # causal masks that old files carry

log = logging.getLogger(__name__)


def to_hugging_face(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return our weights under Hugging Face's names and layout."""
    return {
        PREFIX + name: tensor.t().contiguous() if name.endswith(TRANSPOSED) else tensor.contiguous()
        for name, tensor in state.items()
    }


def from_hugging_face(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return Hugging Face's weights under our names and layout, in float32.

    The prefix of their names may be any, such as ``module.transformer.``; tensors of other names
    and types are kept as they are.

    Raises:
        UserError: there is no embedding, or the head is not tied to it.
    """
    prefixes = [name.removesuffix(EMBEDDING) for name in state if name.endswith(EMBEDDING)]
    if not prefixes:
        raise UserError(f"its weights hold no {PREFIX}{EMBEDDING}: they are not those of a GPT-2")
    prefix = min(prefixes, key=len)
    ours = {}
    for name, tensor in state.items():
        name = name.removeprefix(prefix)
        if name.endswith(BUFFERS):
            continue
        if name.endswith(TRANSPOSED) and tensor.dim() == 2:
            tensor = tensor.t()
        is_number = tensor.is_floating_point() and tensor.layout == torch.strided
        ours[name] = tensor.to(torch.float32).contiguous() if is_number else tensor
    heads = [name for name in ours if name.endswith(HEAD)]
    if any(not torch.equal(ours.pop(name), ours[EMBEDDING]) for name in heads):
        raise UserError("its head is not tied to its embedding, which this GPT-2 cannot hold")
    return ours


def load_pretrained(
    name_or_path: str,
    *,
    dropout: float = 0.0,
    activation: str | None = None,
    key: str = "model.pretrained",
) -> GPT2:
    """Load a GPT-2 of Hugging Face's format from a folder or the hub, in float32.

    Tensors that are no part of a GPT-2 are left out and named in the log.

    Args:
        name_or_path: a folder with ``config.json`` and weights, or a hub name.
        dropout: of the loaded model.
        activation: None: that of its config.
        key: the config key of the name, for messages.

    Raises:
        UserError: there is none, it is not a GPT-2, or its files are broken.
    """
    folder = folder_with_weights(name_or_path, (FILE,), required=(FILE,), key=key)
    try:
        config = read_config(folder, dropout, activation)
        weights = read_weights(folder)
        state = from_hugging_face(weights)
        if not config.is_tied and not any(name.endswith(HEAD) for name in weights):
            raise UserError(f"{FILE} says tie_word_embeddings=false, but there is no {HEAD}")
        _check_size(config.shape, state)
        with torch.device("meta"), _NoInit():
            model = GPT2(config.shape)
        extra = _check_fit(model, state)
        for name in extra:
            del state[name]
        if (bad := not_finite(state)) is not None:
            raise UserError(f"its weights hold NaN or infinity, in {bad}: take another copy")
        _scale_queries(config, state)
        model.load_state_dict(state, assign=True)
    except UserError as error:
        raise UserError(f"{key}={name_or_path}: {error}") from error
    if extra:
        log.warning(
            "%s=%s: %d tensors are no part of a GPT-2 of this shape and are left out: %s",
            key,
            name_or_path,
            len(extra),
            ", ".join(extra[:5]) + (", ..." if len(extra) > 5 else ""),
        )
    return model.requires_grad_()


def num_positions(config: ModelConfig, key: str = "model.pretrained") -> int:
    """Return how many positions the model of ``config`` has; of pretrained weights, their own.

    Of a pretrained model only its ``config.json`` is read.

    Raises:
        UserError: there is none, or it is not that of a GPT-2.
    """
    name = config.pretrained
    if name is None:
        return config.n_positions
    folder = local_folder(name, (FILE,), (FILE,), key)
    try:
        return read_config(folder, config.dropout, config.activation).shape.n_positions
    except UserError as error:
        raise UserError(f"{key}={name}: {error}") from error


def _check_size(shape: GPT2Config, state: dict[str, Tensor]) -> None:
    """Check the numbers of a config that decide how much memory is asked for."""
    width, inner = shape.n_embd, shape.inner_width
    last = f"h.{shape.n_layer - 1}.mlp.c_fc.weight"
    expected = {
        EMBEDDING: (shape.vocab_size, width),
        "wpe.weight": (shape.n_positions, width),
        last: (inner, width),
    }
    for name, size in expected.items():
        if name not in state:
            raise UserError(f"weights do not fit its {FILE}: {name} is missing")
        if (found := tuple(state[name].shape)) != size:
            raise UserError(
                f"weights do not fit its {FILE}: {name} is of {found}, by the config {size}"
            )


def _check_fit(model: GPT2, state: dict[str, Tensor]) -> list[str]:
    """Return the names in ``state`` that ``model`` has not; all that it has must be there."""
    expected = model.state_dict()
    for name, tensor in expected.items():
        if name not in state:
            raise UserError(f"weights do not fit its {FILE}: {name} is missing")
        found = state[name]
        if found.shape != tensor.shape or found.dtype != torch.float32:
            raise UserError(
                f"weights do not fit its {FILE}: {name} is of {tuple(found.shape)} "
                f"{str(found.dtype).removeprefix('torch.')}, by the config {tuple(tensor.shape)}"
            )
    return sorted(state.keys() - expected.keys())


def _scale_queries(config: PretrainedConfig, state: dict[str, Tensor]) -> None:
    """Multiply the scores of each layer by its factor, by way of the query's weights."""
    width = config.shape.n_embd
    for layer, factor in enumerate(config.query_factors):
        if factor != 1:
            for kind in ("weight", "bias"):
                name = f"h.{layer}.attn.c_attn.{kind}"
                state[name] = torch.cat([state[name][:width] * factor, state[name][width:]])


class _NoInit(TorchFunctionMode):
    """Switches ``nn.init`` off: on the meta device it would import torch's compiler."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def save_pretrained(
    model: GPT2, folder: Path, end_id: int, other_end_ids: Sequence[int] = ()
) -> None:
    """Write ``config.json`` and ``model.safetensors`` as GPT2LMHeadModel reads them.

    The weights replace older ones in a single step, with a checksum inside: whoever reads the
    folder meanwhile, or after a crash, finds the complete old file or the complete new one.
    """
    check_plain(model)
    config = hugging_face_config(model.config, [end_id, *other_end_ids])
    atomic.write_json(folder / FILE, config)
    tensors = to_hugging_face({k: v.detach().cpu() for k, v in model.state_dict().items()})
    with atomic.file(folder / WEIGHTS) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt", "sha256": checksum(tensors)})
