"""Hugging Face's GPT-2 folders, read and written. The one place that knows their weight names.

Differences: Hugging Face prefixes ``transformer.``, stores the four projections of a block as
``Conv1D`` (in, out) where ours are ``Linear`` (out, in), keeps old mask buffers, and leaves the
tied head out of the file.
"""

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from src import atomic
from src.errors import UserError
from src.hub import local_folder
from src.model.config import ACTIVATIONS, GPT2Config
from src.model.gpt2 import GPT2

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLED = "pytorch_model.bin"
FILES = ("config.json", "*.safetensors", INDEX)

PREFIX = "transformer."
TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
BUFFERS = (".attn.bias", ".attn.masked_bias")  # causal masks that old files carry
SAME_ACTIVATION = {"gelu_pytorch_tanh": "gelu_new", "gelu_fast": "gelu_new"}


def to_hugging_face(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return our weights under Hugging Face's names and layout."""
    return {
        PREFIX + name: tensor.t().contiguous() if name.endswith(TRANSPOSED) else tensor.contiguous()
        for name, tensor in state.items()
    }


def from_hugging_face(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return Hugging Face's weights under our names and layout, in float32.

    Raises:
        UserError: the head is not tied to the embedding.
    """
    ours = {}
    for name, tensor in state.items():
        name = name.removeprefix(PREFIX)
        if name.endswith(BUFFERS):
            continue
        if name.endswith(TRANSPOSED):
            tensor = tensor.t()
        ours[name] = tensor.to(torch.float32).contiguous()
    head = ours.pop("lm_head.weight", None)
    if head is not None and not torch.equal(head, ours["wte.weight"]):
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

    Args:
        name_or_path: a folder with ``config.json`` and weights, or a hub name.
        dropout: of the loaded model.
        activation: None: that of its config.
        key: the config key of the name, for messages.

    Raises:
        UserError: there is none, it is not a GPT-2, or its files are broken.
    """
    folder = local_folder(name_or_path, FILES, required=FILES[:2], key=key)
    try:
        config = _read_config(folder, dropout, activation)
        state = from_hugging_face(_read_weights(folder))
        with torch.device("meta"), _NoInit():
            model = GPT2(config)
        expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
        shapes = {name: tensor.shape for name, tensor in state.items()}
        if wrong := sorted(set(expected.items()) ^ set(shapes.items())):
            raise UserError(f"weights do not fit its config.json, for example {wrong[0][0]}")
        model.load_state_dict(state, assign=True)
        return model.requires_grad_()
    except UserError as error:
        raise UserError(f"{key}={name_or_path}: {error}") from error


class _NoInit(TorchFunctionMode):
    """Switches ``nn.init`` off: on the meta device it would import torch's compiler."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def save_pretrained(model: GPT2, folder: Path, end_id: int) -> None:
    """Write ``config.json`` and ``model.safetensors`` as GPT2LMHeadModel reads them.

    The weights replace older ones in a single step, with a checksum inside: whoever reads the
    folder meanwhile, or after a crash, finds the complete old file or the complete new one.
    """
    atomic.write_json(folder / "config.json", _hugging_face_config(model.config, end_id))
    tensors = to_hugging_face({k: v.detach().cpu() for k, v in model.state_dict().items()})
    with atomic.file(folder / WEIGHTS) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt", "sha256": checksum(tensors)})


def checksum(tensors: dict[str, Tensor]) -> str:
    """Return the SHA-256 of names and bytes of tensors on the CPU, in any order."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].numpy().data.cast("B"))
    return digest.hexdigest()


def _hugging_face_config(config: GPT2Config, end_id: int) -> dict[str, Any]:
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": config.vocab_size,
        "n_positions": config.n_positions,
        "n_ctx": config.n_positions,
        "n_embd": config.n_embd,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_inner": None,
        "activation_function": config.activation,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
        "resid_pdrop": config.dropout,
        "layer_norm_epsilon": config.layer_norm_epsilon,
        "initializer_range": config.initializer_range,
        "bos_token_id": end_id,
        "eos_token_id": end_id,
        "tie_word_embeddings": True,
        "dtype": "float32",
    }


def _read_config(folder: Path, dropout: float, activation: str | None) -> GPT2Config:
    path = folder / "config.json"
    if not path.exists():
        raise UserError("no config.json in it: not a Hugging Face model folder")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"config.json is broken: {error}") from error
    if values.get("model_type") != "gpt2":
        raise UserError(f"model_type is {values.get('model_type')}, not gpt2")
    function = values.get("activation_function", "gelu_new")
    function = SAME_ACTIVATION.get(function, function)
    unsupported = {
        "activation_function": function not in ACTIVATIONS,
        "n_inner": values.get("n_inner") not in (None, 4 * values["n_embd"]),
        "scale_attn_weights": not values.get("scale_attn_weights", True),
        "scale_attn_by_inverse_layer_idx": values.get("scale_attn_by_inverse_layer_idx", False),
        "add_cross_attention": values.get("add_cross_attention", False),
    }
    for name, is_set in unsupported.items():
        if is_set:
            raise UserError(f"its {name}={values.get(name)} is not supported")
    return GPT2Config(
        vocab_size=values["vocab_size"],
        n_positions=values.get("n_positions", values.get("n_ctx", 1024)),
        n_embd=values["n_embd"],
        n_layer=values["n_layer"],
        n_head=values["n_head"],
        activation=activation or function,
        dropout=dropout,
        initializer_range=values.get("initializer_range", 0.02),
        layer_norm_epsilon=values.get("layer_norm_epsilon", 1e-5),
    )


def _read_weights(folder: Path) -> dict[str, Tensor]:
    try:
        if (folder / INDEX).exists():
            names = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()
            state: dict[str, Tensor] = {}
            for name in sorted(set(names)):
                state |= _read_safetensors(folder / name)
            return state
        if (folder / WEIGHTS).exists():
            return _read_safetensors(folder / WEIGHTS)
        if (folder / PICKLED).exists():
            return torch.load(folder / PICKLED, map_location="cpu", weights_only=True)
    except (
        SafetensorError,
        OSError,
        RuntimeError,
        EOFError,
        pickle.UnpicklingError,
        json.JSONDecodeError,
    ) as error:
        raise UserError(f"its weights cannot be read: {error}") from error
    raise UserError(f"no weights in it ({WEIGHTS} or {PICKLED})")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        expected = (file.metadata() or {}).get("sha256")
    if expected is not None and expected != checksum(tensors):
        raise UserError(f"{path.name} is damaged: its checksum is wrong; copy it again")
    return tensors
