"""Pickled weights (``torch.save``): what a file holds is known before torch reads it.

Even an unpickler that makes nothing but tensors can be made to fill the memory: by a tensor that is
larger than its numbers, a compressed archive, names that take years to compare. So the pickle is
read here first, by a reader that makes only descriptions, within bounds of size.
"""

import io
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import torch
from torch import Tensor

from src.errors import UserError

MAX_PICKLE = 2**19  # bytes without the numbers; GPT-2 XL's have 150,000
CHUNK = 2**20
ZIP = b"PK\x03\x04"
NUM_LEGACY = 4  # pickles of a file of torch before 1.6: magic number, protocol, system, state
ITEM_SIZES = {
    "DoubleStorage": 8,
    "FloatStorage": 4,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "LongStorage": 8,
    "IntStorage": 4,
    "ShortStorage": 2,
    "CharStorage": 1,
    "ByteStorage": 1,
    "BoolStorage": 1,
}
# What a state of plain tensors has no use for.
FORBIDDEN = (
    *(pickle.DICT, pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET, pickle.INST, pickle.OBJ),
    *(pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.PERSID),
    *(pickle.STACK_GLOBAL, pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER),
)


@dataclass(frozen=True)
class Storage:
    """The numbers that tensors are views of."""

    num_items: int
    item_size: int

    @property
    def num_bytes(self) -> int:
        """How much of the file they take."""
        return self.num_items * self.item_size


@dataclass(frozen=True)
class Described:
    """A tensor that is not read yet."""

    shape: tuple[int, ...]


def describe(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors by name.

    Raises:
        UserError: the file holds something else than tensors by name, or they do not fit into it.
        Exception: any, of ``pickle`` and ``zipfile``, for a damaged file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        is_zip = file.read(len(ZIP)) == ZIP
        file.seek(0)
        state = _of_zip(file, size) if is_zip else _of_legacy(file, size)
    if not isinstance(state, dict):
        raise UserError(f"{path.name} holds a {type(state).__name__}, not tensors by name")
    tensors = {name: value.shape for name, value in state.items() if isinstance(value, Described)}
    if not tensors or not all(isinstance(name, str) for name in tensors):
        names = ", ".join(f"{name!s:.50}" for name in list(state)[:3])
        raise UserError(
            f"{path.name} holds no tensors by name, but {names}: is it a checkpoint of training?"
        )
    return tensors


def read_pickled(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file, once ``describe`` has found it good.

    Those of an archive stay in the file until they are used.
    """
    with path.open("rb") as file:
        is_zip = file.read(len(ZIP)) == ZIP
    state: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def _of_zip(file: BinaryIO, size: int) -> Any:
    bounded: Any = Bounded(file)
    with zipfile.ZipFile(bounded) as archive:
        entries = archive.infolist()
        compressed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
        if compressed or sum(entry.file_size for entry in entries) > size:
            raise UserError("it is compressed, which torch.save does not do")
        names = [e.filename for e in entries if Path(e.filename).name == "data.pkl"]
        if len(names) != 1:
            raise UserError("it is no archive of torch.save")
        reader = Reader(io.BytesIO(archive.read(names[0])), size)
        state = reader.load()
    folder = names[0].removesuffix("data.pkl")
    sizes = {f"{folder}data/{key}": each.num_bytes for key, each in reader.storages.items()}
    file.seek(0)
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            if sizes.pop(entry.filename, entry.file_size) != entry.file_size:
                raise UserError(f"its {entry.filename} is of another size than it says")
            with archive.open(entry) as content:
                while content.read(CHUNK):  # which checks the sum of each
                    pass
    if sizes:
        raise UserError(f"its {min(sizes)} is missing")
    return state


def _of_legacy(file: BinaryIO, size: int) -> Any:
    beginning = io.BytesIO(file.read(MAX_PICKLE))  # the numbers follow
    state: Any = None
    for _ in range(NUM_LEGACY):
        state = Reader(beginning, size).load()
    return state


class Bounded:
    """A file of which at most ``MAX_PICKLE`` bytes are read."""

    def __init__(self, file: BinaryIO):
        self.file, self.left = file, MAX_PICKLE
        self.seek, self.tell = file.seek, file.tell

    def seekable(self) -> bool:
        return True

    def read(self, length: int = -1) -> bytes:
        content = self.file.read(self.left + 1 if length < 0 else min(length, self.left + 1))
        self.left -= len(content)
        if self.left < 0:
            raise UserError("it holds more than the names and shapes of a model's weights")
        return content


# The reader in Python: the one in C takes memory for any number that stands in the file.
class Reader(pickle._Unpickler):
    """Reads a state of tensors: dicts, texts, numbers and ``Described``, nothing else."""

    stack: list[Any]
    pop_mark: Callable[[], list[Any]]
    dispatch: ClassVar[dict[int, Callable[..., Any]]] = dict(pickle._Unpickler.dispatch)

    def __init__(self, file: Any, size: int):
        super().__init__(file)
        self.size = size
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in ITEM_SIZES:
            return name
        known: dict[tuple[str, str], Callable[..., Any]] = {
            ("collections", "OrderedDict"): _dict,
            ("torch._utils", "_rebuild_tensor"): self._tensor,
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
        }
        if (module, name) not in known:
            raise UserError(f"it would run {f'{module}.{name}':.100}, which is no tensor")
        return known[module, name]

    def persistent_load(self, saved_id: Any) -> Storage:
        kind, name, key, _, num_items = saved_id[:5]
        storage = Storage(num_items, ITEM_SIZES[name])
        if kind != "storage" or not 0 <= storage.num_bytes <= self.size:
            raise UserError("it names more numbers than it holds")
        return self.storages.setdefault(key, storage)

    def _tensor(self, storage: Storage, offset: int, shape: Any, strides: Any, *_: Any) -> Any:
        last = offset + sum(map(lambda n, stride: (n - 1) * stride, shape, strides))
        is_inside = min(shape, default=1) >= 0 and offset >= 0 and min(strides, default=0) >= 0
        if not is_inside or prod(shape) > storage.num_items or last >= max(1, storage.num_items):
            raise UserError("one of its tensors is larger than its numbers")
        return Described(tuple(shape))

    def load_setitems(self) -> None:
        items = self.pop_mark()
        _check_names(items[::2])
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    def load_setitem(self) -> None:
        value, name = self.stack.pop(), self.stack.pop()
        _check_names([name])
        self.stack[-1][name] = value

    def load_build(self) -> None:
        self.stack.pop()  # the versions of modules

    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.BUILD[0]] = load_build
    for opcode in FORBIDDEN:
        dispatch.pop(opcode[0], None)


def _dict(pairs: Any = ()) -> dict[Any, Any]:
    _check_names([name for name, _ in pairs])
    return dict(pairs)


def _check_names(names: list[Any]) -> None:
    """Tuples in tuples could take years to compare."""
    if not all(isinstance(name, str | int) for name in names):
        raise UserError("it holds no tensors by name")
