"""Files of weights: safetensors or pickled, whole or in shards, to tensors by name."""

import hashlib
import operator
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from src.errors import UserError
from src.files.checksums import warn_of_changes, warn_of_metadata
from src.files.json_file import read_settings, refuse_pointer, settings_of
from src.files.model_files import check_files
from src.free_memory import out_of_memory
from src.hub import first_line, local_folder
from src.model.pickled_weights import describe, read_pickled

WEIGHTS = "model.safetensors"
PICKLED = "pytorch_model.bin"
SAFETENSORS_FILES = ("*.safetensors", "*.safetensors.index.json")
PICKLED_FILES = ("pytorch_model*.bin", "pytorch_model.bin.index.json")
WEIGHTS_FILES = (*SAFETENSORS_FILES, *PICKLED_FILES)
ANY_WEIGHTS = f"{SAFETENSORS_FILES[0]}|{PICKLED_FILES[0]}"
SUFFIXES = (".safetensors", ".bin")
LENGTH_BYTES = 8  # at the beginning of a safetensors file
MAX_HEADER = 8 * 2**20  # GPT-2 XL's has 60,000 bytes
MAX_ITEMS_A_BYTE = 2  # of the smallest type
MAX_SHARDS = 1000
T = TypeVar("T")


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


@dataclass(frozen=True)
class Weights:
    """The weights of a folder, of which only names and shapes are read yet."""

    files: dict[Path, dict[str, tuple[int, ...]]]  # the shapes by name, of each file

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of all tensors by name."""
        return {name: shape for each in self.files.values() for name, shape in each.items()}

    def read(self, names: Collection[str]) -> dict[str, Tensor]:
        """Return the tensors of these names, as they are stored, on the CPU.

        Raises:
            UserError: a file is broken.
        """
        state: dict[str, Tensor] = {}
        for path, shapes in self.files.items():
            kept = shapes.keys() & names
            read = read_pickled if _is_pickled(path) else partial(_read_safetensors, names=kept)
            tensors = _read(path, read)
            state |= {name: tensor for name, tensor in tensors.items() if name in kept}
        return state


def is_weights(name: str) -> bool:
    """Whether a file of this name holds weights."""
    return Path(name).suffix in SUFFIXES


def has_checksum(path: Path) -> bool:
    """Whether weights hold a checksum of their own."""
    with safe_open(path, framework="pt") as file:
        return "sha256" in (file.metadata() or {})


def find_weights(folder: Path) -> Weights:
    """Return the weights of a folder.

    Raises:
        UserError: there are none, a shard is missing, or a file is broken.
    """
    check_files(folder, WEIGHTS_FILES)
    warn_of_changes(folder, is_weights)
    return _described(weights_paths(folder))


def weights_paths(folder: Path) -> list[Path]:
    """Return the files of the weights of a folder, none of which is opened.

    Raises:
        UserError: there are none, or a shard is missing.
    """
    for name in (WEIGHTS, PICKLED):
        index = folder / f"{name}.index.json"
        if index.exists():
            return [folder / shard for shard in _shards(index)]
        if (folder / name).exists():
            return [folder / name]
    if (folder / "adapter_config.json").exists():
        raise UserError("it holds an adapter, not a model: merge it into its base model first")
    raise UserError(f"no weights in it ({WEIGHTS} or {PICKLED})")


def _described(paths: Sequence[Path]) -> Weights:
    return Weights(
        {path: _read(path, describe if _is_pickled(path) else _header) for path in paths}
    )


def _is_pickled(path: Path) -> bool:
    return path.suffix == ".bin"


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
    if len(shards) > MAX_SHARDS:
        raise UserError(
            f"{index.name} lists {len(shards)} files, and at most {MAX_SHARDS} are read"
        )
    if wrong := [shard for shard in shards if not is_weights(shard)]:
        raise UserError(f"{index.name} is broken: {min(wrong):.200} is no file of weights")
    missing = sorted(shard for shard in shards if not (index.parent / shard).is_file())
    if missing:
        raise UserError(
            f"{len(missing)} of the {len(shards)} files that {index.name} lists are missing, "
            f"for example {missing[0]}"
        )
    return sorted(shards)


def _read(path: Path, read: Callable[[Path], dict[str, T]]) -> dict[str, T]:
    try:
        refuse_pointer(path)
        return read(path)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    # Unpickling may raise anything, and so may torch on a damaged file, as both say.
    except Exception as error:
        if out_of_memory(error) or (isinstance(error, UserError) and path.name in str(error)):
            raise
        raise UserError(f"{path.name} cannot be read: {first_line(error)}") from error


def _header(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors by name, without a look at the numbers.

    https://huggingface.co/docs/safetensors/index#format
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        room = size - LENGTH_BYTES
        if not 0 < length <= min(room, MAX_HEADER):
            raise UserError(
                f"{path.name} cannot be read: its header has {length:,} bytes, of at most "
                f"{max(0, min(room, MAX_HEADER)):,}; it is cut or damaged: copy it again"
            )
        header = settings_of(file.read(length), path)
    header.pop("__metadata__", None)
    shapes = {}
    for name, facts in header.items():
        try:
            begin, end = facts["data_offsets"]
            shape = tuple(operator.index(number) for number in facts["shape"])
            is_inside = 0 <= begin <= end <= room - length and min(shape, default=0) >= 0
        except (TypeError, ValueError, KeyError):
            is_inside = False
        if not is_inside or prod(shape) > MAX_ITEMS_A_BYTE * (end - begin):
            raise UserError(
                f"{path.name} cannot be read: {name:.100} is not where its header says; it is cut "
                f"or damaged: copy it again"
            )
        shapes[name] = shape
    return shapes


def _read_safetensors(path: Path, names: Collection[str]) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in names}
            metadata = file.metadata() or {}
            expected = metadata.get("sha256")
            others = set(file.keys()) - set(names) if expected is not None else ()
            whole = tensors | {name: file.get_tensor(name) for name in others}
    except SafetensorError as error:
        raise UserError(
            f"{path.name} cannot be read: {first_line(error)}; it is cut or damaged: copy it again"
        ) from error
    warn_of_metadata(path, metadata)
    if expected is not None and expected != checksum(whole):
        raise UserError(f"{path.name} is damaged: its checksum is wrong; copy it again")
    return tensors
