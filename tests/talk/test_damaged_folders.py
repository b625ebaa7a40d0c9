"""Whatever stands in a folder: it loads, or one clear line says what is wrong."""

import json
import math
import random

import pytest
import torch

from src.data.tokenizer import train_tokenizer
from src.errors import UserError
from src.exporting.modelfile import modelfile
from src.talk.chat_template import template_source
from src.talk.messages import Message
from src.talk.model_folder import load_model_folder, save_model_folder
from tests.conftest import greedy
from tests.model.conftest import random_model, tiny_config

QUESTION = [Message("user", "Hello there?")]
VALUES = (
    *(None, True, False, 0, -1, 1, 3, 1.5, 10**30, math.nan, math.inf),
    *("", "x", "32", "<|endoftext|>", "\ud800"),
    *([], [None], ["x"], [1, 2], [[1]], {}, {"x": 1}, {"content": 1}, {"content": "x"}),
    *([{"name": "default"}], [{"name": 1, "template": "x"}]),
)
WHOLE = (b"", b"null", b"[]", b"3", b'"x"', b"{}", b"{", b"\xff\xfe{\x00}\x00", b"\x00" * 64)
JSONS = ("config", "generation_config", "tokenizer_config", "tokenizer", "special_tokens_map")
MORE_KEYS = {
    "config": ["eos_token_id", "quantization_config", "scale_attn_weights", "tokenizer_class"],
    "generation_config": ["top_p", "temperature"],
    "tokenizer_config": [
        *("chat_template", "added_tokens_decoder", "additional_special_tokens", "auto_map"),
        *("sep_token", "split_special_tokens", "model_max_length"),
    ],
    "tokenizer": [],
    "special_tokens_map": ["eos_token", "additional_special_tokens"],
}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    tokenizer = train_tokenizer(["Hello there, how are you? I am fine: 1 2 3."] * 3, 280)
    model = random_model(tiny_config(vocab_size=tokenizer.vocab_size, n_layer=1))
    folder = tmp_path_factory.mktemp("good") / "model"
    save_model_folder(folder, model, tokenizer, greedy(12))
    (folder / "special_tokens_map.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))
    return folder


@pytest.fixture
def folder(good, tmp_path):
    """A copy; the weights are linked."""
    for path in good.iterdir():
        if path.name == "model.safetensors":
            (tmp_path / path.name).hardlink_to(path)
        else:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def opens(folder) -> bool:
    """Whether the folder can be used; what is refused is one line."""
    refusal = None
    try:
        model, tokenizer, template, end_ids = load_model_folder(str(folder))
        ids = template(QUESTION)
        assert max(ids) < model.config.vocab_size
        assert all(isinstance(index, int) for index in end_ids)
        with torch.inference_mode():
            model(torch.tensor([ids]))
        tokenizer.decode(ids)
        modelfile("model.gguf", folder, template_source(folder), 64)
    except UserError as error:
        refusal = str(error)
    assert refusal is None or "\n" not in refusal
    return refusal is None


def test_the_folder_is_good(folder):
    assert opens(folder)


@pytest.mark.parametrize("name", JSONS)
def test_a_json_file_that_is_cut_or_something_else(folder, name):
    path = folder / f"{name}.json"
    content = path.read_bytes()
    damaged = [*WHOLE, *(content[: len(content) * share // 8] for share in range(1, 8))]
    results = []
    for data in damaged:
        path.write_bytes(data)
        results.append(opens(folder))
    assert not all(results)


@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", JSONS)
def test_a_key_of_any_type(folder, name, step):
    path = folder / f"{name}.json"
    content = json.loads(path.read_text())
    for number, key in enumerate({**content, **dict.fromkeys(MORE_KEYS[name])}):
        for value in VALUES[number % step :: step]:
            path.write_text(json.dumps(content | {key: value}))
            opens(folder)
        if key in content:
            path.write_text(json.dumps({k: v for k, v in content.items() if k != key}))
            opens(folder)


@pytest.mark.slow
def test_the_parts_of_a_tokenizer_of_any_type(folder):
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    for part in ("model", "pre_tokenizer", "decoder"):
        for key in content[part]:
            for value in VALUES:
                path.write_text(json.dumps(content | {part: content[part] | {key: value}}))
                opens(folder)
    (token,) = content["added_tokens"]
    for key in token:
        for value in VALUES:
            path.write_text(json.dumps(content | {"added_tokens": [token | {key: value}]}))
            opens(folder)


@pytest.mark.parametrize("kind", ["safetensors", "pickle"])
def test_weights_with_any_damage(folder, good, kind):
    weights = folder / "model.safetensors"
    data = weights.read_bytes()
    if kind == "pickle":
        from safetensors.torch import load_file

        path = folder / "pytorch_model.bin"
        torch.save(load_file(weights), path)
        data = path.read_bytes()
    else:
        path = weights
    weights.unlink()
    generator = random.Random(0)
    damaged = [*WHOLE, *(data[: len(data) * share // 16] for share in range(16))]
    for _ in range(60):
        some = bytearray(data)
        for _ in range(3):
            some[generator.randrange(min(len(some), 4000))] = generator.randrange(256)
        damaged.append(bytes(some))
    for content in damaged:
        path.write_bytes(content)
        opens(folder)


@pytest.mark.parametrize("content", [[], None, {}, {"weight_map": []}, {"weight_map": {"a": None}}])
def test_an_index_of_any_form(folder, content):
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))
    assert not opens(folder)


@pytest.mark.parametrize("names", [("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")])
def test_a_vocabulary_and_merges_with_any_damage(folder, names):
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    vocabulary = json.dumps(model["vocab"]).encode()
    merges = "\n".join(["#version: 0.2", *map(" ".join, model["merges"]), ""]).encode()
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text("{}")
    paths = [folder / name for name in names]
    contents = (vocabulary, merges)
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    assert opens(folder)
    broken_values = (json.dumps({"a": value}).encode() for value in VALUES)
    for path, content in zip(paths, contents, strict=True):
        halves = [content[: len(content) * share // 8] for share in range(1, 8)]
        for data in (*WHOLE, *halves, b"a b c\n", b"a\n", b"zz yy\n", *broken_values):
            path.write_bytes(data)
            opens(folder)
        path.write_bytes(content)
