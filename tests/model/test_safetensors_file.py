import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from src.model.safetensors_file import DTYPES, save_file


def test_the_library_reads_what_we_write(tmp_path):
    tensors = {
        **{str(dtype): torch.arange(7).to(dtype) for dtype in DTYPES},
        "matrix": torch.randn(3, 5).t(),
        "empty": torch.zeros(0, 4),
        "scalar": torch.tensor(3.0),
    }
    save_file(tensors, tmp_path / "x", {"format": "pt", "sha256": "é"})
    again = load_file(tmp_path / "x")
    assert again.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert again[name].dtype == tensor.dtype
        assert torch.equal(again[name], tensor), name
    with safe_open(tmp_path / "x", "pt") as file:
        assert file.metadata() == {"format": "pt", "sha256": "é"}


def test_each_tensor_begins_at_a_multiple_of_its_element_s_size(tmp_path):
    tensors = {"a": torch.zeros(3, dtype=torch.uint8), "b": torch.zeros(5), "c": torch.zeros(1)}
    save_file(tensors, tmp_path / "x", {})
    content = (tmp_path / "x").read_bytes()
    size = int.from_bytes(content[:8], "little")
    assert size % 8 == 0
    header = json.loads(content[8 : 8 + size])
    assert [name for name in header if name[0] != "_"] == ["b", "c", "a"]
    assert all(header[name]["data_offsets"][0] % 4 == 0 for name in "bc")


def test_equal_tensors_give_equal_files(tmp_path):
    tensors = {"a": torch.randn(4), "b": torch.randn(4)}
    save_file(tensors, tmp_path / "x", {"format": "pt", "sha256": "0"})
    shuffled = dict(reversed(tensors.items()))
    save_file(shuffled, tmp_path / "y", {"sha256": "0", "format": "pt"})
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


def test_an_unknown_type_is_refused(tmp_path):
    with pytest.raises(KeyError):
        save_file({"a": torch.zeros(1, dtype=torch.complex64)}, tmp_path / "x", {})
