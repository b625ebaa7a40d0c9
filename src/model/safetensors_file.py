"""A file of safetensors, written by us: equal tensors give equal bytes, and the system's errors.

The safetensors library puts the metadata in an order of its own in each process, gives the file
another name and mode while it writes, and tells of a full disk in words.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

# https://github.com/huggingface/safetensors#format
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def save_file(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write tensors by their names, and the metadata, as safetensors' function of this name does.

    The largest elements come first, so that each tensor begins at a multiple of its element's size.
    """
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    end = 0
    for name in names:
        tensor = tensors[name]
        start, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name in names:
            if tensors[name].numel():
                file.write(tensors[name].contiguous().view(-1).view(torch.uint8).numpy().data)
