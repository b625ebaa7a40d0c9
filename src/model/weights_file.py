"""Files of weights: safetensors or pickled, whole or in shards, to tensors by name."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from src.errors import UserError
from src.hub import first_line, local_folder
from src.json_file import read_settings, refuse_pointer

WEIGHTS = "model.safetensors"
PICKLED = "pytorch_model.bin"
SAFETENSORS_FILES = ("*.safetensors", "*.safetensors.index.json")
PICKLED_FILES = ("pytorch_model*.bin", "pytorch_model.bin.index.json")
ANY_WEIGHTS = f"{SAFETENSORS_FILES[0]}|{PICKLED_FILES[0]}"


def folder_with_weights(
    name_or_path: str, patterns: Sequence[str], required: Sequence[str], key: str
) -> Path:
    """Return the local folder of a model; pickled weights are fetched where there are no others.

    Args:
        name_or_path: a folder, or a hub name.
        patterns: the files to fetch beside the weights.
        required: the patterns that a complete copy in the cache matches beside the weights.
        key: the config key, for messages.

    Raises:
        UserError: it is neither a folder here nor a model that the hub or its cache holds.
    """
    required = (*required, ANY_WEIGHTS)
    folder = local_folder(name_or_path, (*patterns, *SAFETENSORS_FILES), required, key)
    is_here = Path(name_or_path).expanduser().is_dir()
    if is_here or any(any(folder.glob(pattern)) for pattern in ANY_WEIGHTS.split("|")):
        return folder
    return local_folder(name_or_path, (*patterns, *PICKLED_FILES), required, key)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of a folder, as they are stored, on the CPU.

    Raises:
        UserError: there are none, a shard is missing, or a file is broken.
    """
    kinds: tuple[tuple[str, Callable[[Path], dict[str, Tensor]]], ...] = (
        (WEIGHTS, _read_safetensors),
        (PICKLED, _read_pickled),
    )
    for name, read in kinds:
        index = folder / f"{name}.index.json"
        if index.exists():
            state: dict[str, Tensor] = {}
            for shard in _shards(index):
                state |= _read(folder / shard, read)
            return state
        if (folder / name).exists():
            return _read(folder / name, read)
    if (folder / "adapter_config.json").exists():
        raise UserError("it holds an adapter, not a model: merge it into its base model first")
    raise UserError(f"no weights in it ({WEIGHTS} or {PICKLED})")


def weights_files(folder: Path) -> set[Path]:
    """Return the files of safetensors that ``read_weights`` reads; none where it reads others."""
    index = folder / f"{WEIGHTS}.index.json"
    if index.exists():
        return {index, *(folder / shard for shard in _shards(index))}
    return {folder / WEIGHTS} & set(folder.glob(WEIGHTS))


def checksum(tensors: dict[str, Tensor]) -> str:
    """Return the SHA-256 of names and bytes of tensors on the CPU, in any order."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _shards(index: Path) -> list[str]:
    """Return the names of the files that an index lists, all of which exist beside it."""
    weight_map = read_settings(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{index.name} is broken: it has no weight_map")
    shards = set()
    for shard in weight_map.values():
        if not isinstance(shard, str) or Path(shard).name != shard or "\\" in shard:
            raise UserError(
                f"{index.name} is broken: {shard!r:.200} is no name of a file beside it"
            )
        shards.add(shard)
    missing = sorted(shard for shard in shards if not (index.parent / shard).is_file())
    if missing:
        raise UserError(
            f"{len(missing)} of the {len(shards)} files that {index.name} lists are missing, "
            f"for example {missing[0]}"
        )
    return sorted(shards)


def _read(path: Path, read: Callable[[Path], dict[str, Tensor]]) -> dict[str, Tensor]:
    try:
        refuse_pointer(path)
        return read(path)
    except UserError:
        raise
    # Unpickling may raise anything, and so may torch on a damaged file, as both say.
    except Exception as error:
        raise UserError(f"{path.name} cannot be read: {first_line(error)}") from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            expected = (file.metadata() or {}).get("sha256")
    except SafetensorError as error:
        raise UserError(
            f"{path.name} cannot be read: {first_line(error)}; it is cut or damaged: copy it again"
        ) from error
    if expected is not None and expected != checksum(tensors):
        raise UserError(f"{path.name} is damaged: its checksum is wrong; copy it again")
    return tensors


def _read_pickled(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file of ``torch.save``, of which only tensors are unpickled."""
    state: Any = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, dict):
        raise UserError(f"{path.name} holds a {type(state).__name__}, not tensors by name")
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    if not tensors or not all(isinstance(name, str) for name in tensors):
        names = ", ".join(map(str, list(state)[:3]))
        raise UserError(
            f"{path.name} holds no tensors by name, but {names}: is it a checkpoint of training?"
        )
    return tensors
