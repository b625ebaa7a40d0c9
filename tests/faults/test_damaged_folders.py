"""Bits, cuts and swaps in every file of a model folder: none silent, none a traceback.

In a folder that we wrote each damage is refused, or named in a warning. A folder of others holds no
checksums: there, damage is refused where it shows, and never a traceback.
"""

import json
import logging
import random
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from src.data.tokenizer import train_tokenizer
from src.errors import UserError
from src.files import checksums
from src.model.pretrained import load_pretrained
from src.talk.messages import Message
from src.talk.model_folder import load_model_folder, save_model_folder
from tests.conftest import greedy
from tests.faults.conftest import count
from tests.model.conftest import random_model, tiny_config

OURS = count(600, 60)
OTHERS = count(300, 30)
QUESTION = [Message("user", "Hello there?")]


@pytest.fixture(scope="module")
def ours(tmp_path_factory) -> Path:
    tokenizer = train_tokenizer(["Hello there, how are you? I am fine: 1 2 3."] * 3, 280)
    model = random_model(tiny_config(vocab_size=tokenizer.vocab_size, n_layer=1))
    folder = tmp_path_factory.mktemp("ours") / "model"
    save_model_folder(folder, model, tokenizer, greedy(12))
    return folder


@pytest.fixture(scope="module")
def others(ours, tmp_path_factory) -> Path:
    """The same model as others have it: a pickle, vocabulary and merges, no checksum."""
    folder = tmp_path_factory.mktemp("others")
    torch.save(load_file(ours / "model.safetensors"), folder / "pytorch_model.bin")
    bpe = json.loads((ours / "tokenizer.json").read_text())["model"]
    (folder / "vocab.json").write_text(json.dumps(bpe["vocab"]))
    (folder / "merges.txt").write_text("\n".join(map(" ".join, bpe["merges"])) + "\n")
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    )
    for name in ("config.json", "generation_config.json"):
        shutil.copy(ours / name, folder / name)
    return folder


def damaged(content: bytes, generator: random.Random) -> tuple[str, bytes]:
    """Return a damage as disks, networks and editors make it, and the file after it."""
    kind = generator.choice(["bit"] * 4 + ["bits", "cut", "zeros", "swap", "twice", "empty"])
    data = bytearray(content)
    place = generator.randrange(len(data))
    if kind in ("bit", "bits"):
        for _ in range(1 if kind == "bit" else 8):
            data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
    elif kind == "cut":
        del data[place:]
    elif kind == "zeros":
        data[place : place + 512] = bytes(len(data[place : place + 512]))
    elif kind == "swap":
        data[place : place + 1] = data[place - 1 : place] + b"~"
    elif kind == "twice":
        data += content
    else:
        data.clear()
    return kind, bytes(data)


def outcome(folder: Path, caplog) -> str:
    """Return ``refused``, ``warned`` or ``silent``."""
    caplog.clear()
    checksums._said.clear()
    try:
        model, _, template, _ = load_model_folder(str(folder))
        with torch.inference_mode():
            model(torch.tensor([template(QUESTION)]))
    except UserError as error:
        return "refused" if "\n" not in str(error) else f"several lines: {error}"
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    return "warned" if any(str(folder) in text for text in said) else "silent"


def outcomes(folder: Path, number: int, tmp_path: Path, caplog) -> dict[str, list[str]]:
    """Damage each file in turn; return what came of it by the kind of outcome."""
    generator = random.Random(0)
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    names = sorted(path.name for path in folder.iterdir())
    found: dict[str, list[str]] = {"refused": [], "warned": [], "silent": []}
    for index in range(number):
        name = names[index % len(names)]
        content = (folder / name).read_bytes()
        kind, data = damaged(content, generator)
        if data == content:
            continue
        (copy / name).write_bytes(data)
        found[outcome(copy, caplog)].append(f"{name}: {kind}")
        (copy / name).write_bytes(content)
    assert outcome(copy, caplog) == "silent"  # all is as it was
    return found


def test_no_damage_of_a_folder_that_we_wrote_is_silent(ours, tmp_path, caplog):
    found = outcomes(ours, OURS, tmp_path, caplog)
    assert not found["silent"]
    assert found["refused"]
    assert found["warned"]


def test_no_damage_of_a_folder_of_others_is_a_traceback(others, tmp_path, caplog):
    found = outcomes(others, OTHERS, tmp_path, caplog)
    assert found["refused"]


def test_a_damaged_record_of_a_pickle_shows_in_its_own_sum(others, tmp_path, caplog):
    """A zip archive has one for each record, but none for the gaps between them."""
    copy = tmp_path / "model"
    shutil.copytree(others, copy)
    content = (copy / "pytorch_model.bin").read_bytes()
    weights = load_pretrained(str(copy)).state_dict()
    generator = random.Random(1)
    results = []
    for _ in range(count(60, 20)):
        data = bytearray(content)
        data[len(data) // 4 + generator.randrange(len(data) // 2)] ^= 1 << generator.randrange(8)
        (copy / "pytorch_model.bin").write_bytes(data)
        results.append(outcome(copy, caplog))
        if results[-1] == "silent":
            found = load_pretrained(str(copy)).state_dict()
            assert all(torch.equal(weights[name], found[name]) for name in weights)
    assert results.count("refused") > len(results) / 2
