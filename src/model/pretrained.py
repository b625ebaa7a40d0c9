"""Hugging Face's GPT-2 folders, read and written. The one place that knows their weight names.

Differences: Hugging Face prefixes ``transformer.``, stores the four projections of a block as
``Conv1D`` (in, out) where ours are ``Linear`` (out, in), keeps old mask buffers, and leaves the
tied head out of the file. Attention scores that are scaled in another way than ours become a factor
of the query's weights.
"""

import logging
from collections.abc import Collection, Iterator, Sequence
from math import prod
from pathlib import Path

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from src.errors import UserError
from src.files import atomic
from src.files.checksums import warn_of_changes
from src.files.model_files import check_files
from src.free_memory import check_room, memory_for
from src.hub import local_folder
from src.model.config import GPT2Config, ModelConfig
from src.model.finite import not_finite
from src.model.footprint import FLOAT32
from src.model.gpt2 import GPT2
from src.model.plain import check_plain
from src.model.pretrained_config import (
    FILE,
    PretrainedConfig,
    hugging_face_config,
    read_config,
)
from src.model.safetensors_file import save_file
from src.model.weights_file import WEIGHTS, Weights, checksum, find_weights, folder_with_weights

PREFIX = "transformer."
HEAD = "lm_head.weight"
EMBEDDING = "wte.weight"
TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
UNTIED = "its head is not tied to its embedding, which this GPT-2 cannot hold"
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
    ours = {}
    for theirs, name in our_names(state).items():
        tensor = state[theirs]
        if name.endswith(TRANSPOSED) and tensor.dim() == 2:
            tensor = tensor.t()
        is_number = tensor.is_floating_point() and tensor.layout == torch.strided
        ours[name] = tensor.to(torch.float32).contiguous() if is_number else tensor
    heads = [name for name in ours if name.endswith(HEAD)]
    if any(not torch.equal(ours.pop(name), ours[EMBEDDING]) for name in heads):
        raise UserError(UNTIED)
    return ours


def our_names(names: Collection[str]) -> dict[str, str]:
    """Return our names of Hugging Face's, without the masks of old files.

    Raises:
        UserError: there is no embedding.
    """
    prefixes = [name.removesuffix(EMBEDDING) for name in names if name.endswith(EMBEDDING)]
    if not prefixes:
        raise UserError(f"its weights hold no {PREFIX}{EMBEDDING}: they are not those of a GPT-2")
    prefix = min(prefixes, key=len)
    ours = {name: name.removeprefix(prefix) for name in names}
    return {theirs: name for theirs, name in ours.items() if not name.endswith(BUFFERS)}


def load_pretrained(
    name_or_path: str,
    *,
    dropout: float = 0.0,
    activation: str | None = None,
    key: str = "model.pretrained",
    beside: Collection[str] = (),
) -> GPT2:
    """Load a GPT-2 of Hugging Face's format from a folder or the hub, in float32.

    Tensors that are no part of a GPT-2 are left out and named in the log.

    Args:
        name_or_path: a folder with ``config.json`` and weights, or a hub name.
        dropout: of the loaded model.
        activation: None: that of its config.
        key: the config key of the name, for messages.
        beside: names of other tensors that the caller reads: the log is silent on them.

    Raises:
        UserError: there is none, it is not a GPT-2, or its files are broken.
    """
    folder = folder_with_weights(name_or_path, (FILE,), required=(FILE,), key=key)
    try:
        check_files(folder, (FILE,))
        warn_of_changes(folder, lambda name: name == FILE)
        config = read_config(folder, dropout, activation)
        weights = find_weights(folder)
        names = our_names(weights.shapes)
        if not config.is_tied and not any(name.endswith(HEAD) for name in names):
            raise UserError(f"{FILE} says tie_word_embeddings=false, but there is no {HEAD}")
        extra = _check_shapes(config.shape, weights.shapes, names)
        state = _read(weights, [theirs for theirs, name in names.items() if name not in extra])
        with torch.device("meta"), NoInit():
            model = GPT2(config.shape)
        _check_fit(model, state)
        if (bad := not_finite(state)) is not None:
            raise UserError(f"its weights hold NaN or infinity, in {bad}: take another copy")
        _scale_queries(config, state)
        model.load_state_dict(state, assign=True)
    except UserError as error:
        raise UserError(f"{key}={name_or_path}: {error}") from error
    if extra := [name for name in extra if name not in beside]:
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


def tensor_shapes(shape: GPT2Config) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the names and shapes of the weights of a GPT-2 that is not built."""
    width, inner = shape.n_embd, shape.inner_width
    yield EMBEDDING, (shape.vocab_size, width)
    yield "wpe.weight", (shape.n_positions, width)
    for layer in range(shape.n_layer):
        for name, num_in, num_out in (
            ("attn.c_attn", width, 3 * width),
            ("attn.c_proj", width, width),
            ("mlp.c_fc", width, inner),
            ("mlp.c_proj", inner, width),
        ):
            yield f"h.{layer}.{name}.weight", (num_out, num_in)
            yield f"h.{layer}.{name}.bias", (num_out,)
        for name in ("ln_1", "ln_2"):
            yield f"h.{layer}.{name}.weight", (width,)
            yield f"h.{layer}.{name}.bias", (width,)
    yield "ln_f.weight", (width,)
    yield "ln_f.bias", (width,)


def _check_shapes(
    shape: GPT2Config, found: dict[str, tuple[int, ...]], names: dict[str, str]
) -> list[str]:
    """Return our names of the tensors that a GPT-2 has not; all that it has must be there.

    Nothing is built yet: a config may name any number of layers.
    """
    theirs = {name: theirs for theirs, name in names.items()}
    expected = {}
    for name, size in tensor_shapes(shape):
        if name not in theirs:
            raise UserError(f"weights do not fit its {FILE}: {name} is missing")
        stored = found[theirs[name]]
        if (stored[::-1] if name.endswith(TRANSPOSED) else stored) != size:
            raise UserError(
                f"weights do not fit its {FILE}: {name} is of {stored}, by the config {size}"
            )
        expected[name] = size
    heads = {name for name in theirs if name.endswith(HEAD)}
    for name in heads:
        if found[theirs[name]] != expected[EMBEDDING]:
            raise UserError(UNTIED)
    return sorted(theirs.keys() - expected.keys() - heads)


def _read(weights: Weights, names: Collection[str]) -> dict[str, Tensor]:
    """Return the tensors under our names, if there is room for them."""
    needed = FLOAT32 * sum(prod(weights.shapes[name]) for name in names)
    check_room(needed, "its weights", "take a smaller model")
    with memory_for("its weights were read", "take a smaller model"):
        return from_hugging_face(weights.read(names))


def _check_fit(model: GPT2, state: dict[str, Tensor]) -> None:
    """Check the tensors that were read against those of ``model``."""
    for name, tensor in model.state_dict().items():
        found = state[name]
        if found.shape != tensor.shape or found.dtype != torch.float32:
            raise UserError(
                f"weights do not fit its {FILE}: {name} is of {tuple(found.shape)} "
                f"{str(found.dtype).removeprefix('torch.')}, by the config {tuple(tensor.shape)}"
            )


def _scale_queries(config: PretrainedConfig, state: dict[str, Tensor]) -> None:
    """Multiply the scores of each layer by its factor, by way of the query's weights."""
    width = config.shape.n_embd
    for layer, factor in enumerate(config.query_factors):
        if factor != 1:
            for kind in ("weight", "bias"):
                name = f"h.{layer}.attn.c_attn.{kind}"
                state[name] = torch.cat([state[name][:width] * factor, state[name][width:]])


class NoInit(TorchFunctionMode):
    """Switches ``nn.init`` off: on the meta device it would import torch's compiler."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def save_pretrained(
    model: GPT2, folder: Path, end_id: int, other_end_ids: Sequence[int] = ()
) -> None:
    """Write ``config.json`` and ``model.safetensors`` as GPT2LMHeadModel reads them."""
    atomic.write_text(folder / FILE, config_text(model, end_id, other_end_ids))
    save_weights(model, folder)


def config_text(model: GPT2, end_id: int, other_end_ids: Sequence[int] = ()) -> str:
    """Return ``config.json``."""
    return atomic.as_json(hugging_face_config(model.config, [end_id, *other_end_ids]))


def save_weights(model: GPT2, folder: Path) -> None:
    """Write ``model.safetensors``, with a checksum inside.

    The weights replace older ones in a single step: whoever reads the folder meanwhile, or after a
    crash, finds the complete old file or the complete new one.

    Raises:
        disk.Unwritten: the disk refuses; the older file stays.
    """
    check_plain(model)
    state = {k: v.detach().cpu() for k, v in model.state_dict().items()}
    write_weights(to_hugging_face(state), folder)


def write_weights(tensors: dict[str, Tensor], folder: Path) -> None:
    """Write tensors of Hugging Face's names, as ``save_weights`` does."""
    size = sum(tensor.nbytes for tensor in tensors.values())
    with atomic.file(folder / WEIGHTS, size=size) as part:
        save_file(tensors, part, metadata={"format": "pt", "sha256": checksum(tensors)})


def num_bytes(model: GPT2) -> int:
    """Return the bytes of a model's weights."""
    return sum(tensor.nbytes for tensor in model.state_dict().values())
