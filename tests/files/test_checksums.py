"""A folder that we wrote: what is not as it was written is named, and used."""

import json
import logging
import shutil
import subprocess

import pytest
import torch
from safetensors.torch import load_file, save_file

from src.data.tokenizer import load_tokenizer
from src.exporting.exports import open_model_folder, write_hugging_face_folder
from src.files import checksums
from src.model.pretrained import load_pretrained
from src.talk.model_folder import load_model_folder, save_model_folder
from tests.conftest import greedy
from tests.model.conftest import random_model, tiny_config

SETTINGS = [
    *("chat_template.jinja", "config.json", "generation_config.json"),
    *("tokenizer.json", "tokenizer_config.json"),
]


@pytest.fixture
def folder(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(checksums, "_said", set())
    model = random_model(tiny_config(vocab_size=tokenizer.vocab_size))
    save_model_folder(tmp_path / "model", model, tokenizer, greedy(12))
    return tmp_path / "model"


def warnings(folder, caplog, load=load_model_folder) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        load(str(folder))
    return [record.getMessage() for record in caplog.records]


def test_a_whole_folder_has_no_warning_and_others_can_check_it(folder, caplog):
    assert warnings(folder, caplog) == []
    assert sorted(checksums.read_sums(folder)) == SETTINGS
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=folder, check=True)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_file_that_changed_is_named_once(folder, name, caplog):
    path = folder / name
    path.write_text(path.read_text() + "\n")
    (warning,) = warnings(folder, caplog)
    assert f"{path} is not as it was written" in warning


def test_weights_and_tokenizer_alone_are_checked_as_well(folder, caplog):
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"n_head": 2}))
    assert "config.json is not" in warnings(folder, caplog, load_pretrained)[0]
    path = folder / "tokenizer.json"
    path.write_text(path.read_text() + "\n")
    assert "tokenizer.json is not" in warnings(folder, caplog, load_tokenizer)[0]


def test_a_file_that_is_gone_is_named(folder, caplog):
    (folder / "generation_config.json").unlink()
    assert "generation_config.json is missing" in warnings(folder, caplog)[0]


@pytest.mark.parametrize("damage", ["", "x" * 100, None, -1], ids=str)
def test_a_damaged_list_is_named(folder, damage, caplog):
    path = folder / checksums.SUMS
    text = path.read_text()
    lines = text.splitlines(keepends=True)
    path.write_text(
        "".join(lines[:-1]) if damage is None else text[:-1] if damage == -1 else damage
    )
    assert "SHA256SUMS is damaged" in warnings(folder, caplog)[0]


def test_weights_without_their_checksum_are_named(folder, caplog):
    path = folder / "model.safetensors"
    save_file(load_file(path), path, metadata={"format": "pt"})
    assert "model.safetensors holds no checksum" in warnings(folder, caplog)[0]


def test_new_weights_leave_the_list_right(folder, tokenizer, caplog):
    model = random_model(tiny_config(vocab_size=tokenizer.vocab_size), seed=3)
    save_model_folder(folder, model, tokenizer, greedy(12))
    assert warnings(folder, caplog) == []
    config = folder / "config.json"
    config.write_text(config.read_text() + "\n")
    save_model_folder(folder, model, tokenizer, greedy(12))  # writes it again
    assert warnings(folder, caplog) == []


@pytest.mark.parametrize("weights", ["ours", "others"])
def test_an_export_has_a_list_of_its_own(folder, weights, tmp_path, caplog):
    path = folder / "model.safetensors"
    if weights == "others":
        tensors = load_file(path)
        (folder / "SHA256SUMS").unlink()
        save_file(tensors, path, metadata={"format": "pt"})
    write_hugging_face_folder(open_model_folder(str(folder)), tmp_path / "export", overwrite=False)
    names = sorted(checksums.read_sums(tmp_path / "export"))
    assert names == sorted([*SETTINGS, *(["model.safetensors"] if weights == "others" else [])])
    assert warnings(tmp_path / "export", caplog) == []
    if weights == "others":
        tensors["transformer.wte.weight"] += torch.eye(*tensors["transformer.wte.weight"].shape)
        save_file(tensors, tmp_path / "export" / "model.safetensors", metadata={"format": "pt"})
        (warning,) = warnings(tmp_path / "export", caplog)
        assert "model.safetensors is not as it was written" in warning


def test_a_folder_of_others_has_none(folder, caplog):
    (folder / "SHA256SUMS").unlink()
    (folder / "config.json").write_text((folder / "config.json").read_text() + "\n")
    assert warnings(folder, caplog) == []
