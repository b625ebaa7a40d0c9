"""A model's own end tokens end its answers, wherever its folder names them."""

import json

import gguf
import pytest
import transformers

from src.data.tokenizer import train_tokenizer
from src.errors import UserError
from src.exporting.exports import open_model_folder, write_gguf_folder, write_hugging_face_folder
from src.model.pretrained import save_pretrained
from src.talk.assistant import Assistant
from src.talk.messages import Message
from src.talk.model_folder import load_model_folder, save_model_folder
from tests.conftest import greedy
from tests.model.conftest import random_model, tiny_config

PROMPT = "Hello there"
GREEDY = greedy(12)


@pytest.fixture
def folder(tmp_path):
    """A folder whose files name no end token but the tokenizer's."""
    tokenizer = train_tokenizer(["Hello there, how are you? I am fine: 1 2 3."] * 3, 280)
    model = random_model(tiny_config(vocab_size=tokenizer.vocab_size, n_positions=256))
    save_model_folder(tmp_path / "model", model, tokenizer, GREEDY)
    for name in ("generation_config", "config"):
        change(tmp_path / "model", name, eos_token_id=...)
    return tmp_path / "model"


def change(folder, name, **values):
    path = folder / f"{name}.json"
    content = (json.loads(path.read_text()) if path.exists() else {}) | values
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))


def generated(folder) -> list[int]:
    """The ids of an answer that nothing ends."""
    loaded = load_model_folder(str(folder))
    assistant = Assistant(loaded.model, loaded.tokenizer, loaded.template, end_ids=[])
    return list(assistant._tokens(assistant.template([Message("user", PROMPT)]), GREEDY))


def answer(folder):
    reply = Assistant(*load_model_folder(str(folder))).reply([Message("user", PROMPT)], GREEDY)
    reply.read_all()
    return reply


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("name", ["generation_config", "config"])
def test_a_file_names_the_end(folder, name, several):
    ids = generated(folder)
    assert len(ids) == 12
    if name == "config":
        (folder / "generation_config.json").unlink()
    assert answer(folder).stop_reason == "length"
    end = ids[4]
    change(folder, name, eos_token_id=[279, end] if several else end)
    reply = answer(folder)
    assert (reply.stop_reason, reply.num_new_tokens) == ("end", ids.index(end))
    assert Assistant(*load_model_folder(str(folder))).replies([PROMPT], GREEDY) == [reply.text]


@pytest.mark.parametrize("form", ["text", "object", "older file"])
def test_the_tokenizer_names_the_end(folder, form):
    ids = generated(folder)
    token = load_model_folder(str(folder)).tokenizer.backend.id_to_token(ids[4])
    value = (
        {"__type": "AddedToken", "content": token, "normalized": False}
        if form == "object"
        else token
    )
    if form == "older file":
        change(folder, "tokenizer_config", eos_token=...)
        change(folder, "special_tokens_map", eos_token={"content": token, "normalized": False})
    else:
        change(folder, "tokenizer_config", eos_token=value)
    reply = answer(folder)
    assert (reply.stop_reason, reply.num_new_tokens) == ("end", ids.index(ids[4]))


def test_ids_that_the_model_has_not_end_nothing(folder):
    change(folder, "config", eos_token_id=50256)
    loaded = load_model_folder(str(folder))
    assert loaded.end_ids == {loaded.tokenizer.end_id}


def test_the_number_that_a_config_was_saved_with_is_no_end_beside_a_generation_config(folder):
    change(folder, "generation_config", eos_token_id=5)
    change(folder, "config", eos_token_id=7)
    loaded = load_model_folder(str(folder))
    assert loaded.end_ids == {loaded.tokenizer.end_id, 5}


@pytest.mark.parametrize("value", ["5", 1.5, True, [1, "2"], {}])
def test_what_is_no_token_is_one_line(folder, value):
    change(folder, "generation_config", eos_token_id=value)
    with pytest.raises(UserError, match=r"generation_config\.json: eos_token_id=.* neither"):
        load_model_folder(str(folder))


def test_exports_end_where_the_model_does(folder, tmp_path):
    change(folder, "generation_config", eos_token_id=[5, 7])
    source = open_model_folder(str(folder))
    write_gguf_folder(source, tmp_path / "gguf", "f32", overwrite=False)
    end = source.tokenizer.end_id
    fields = gguf.GGUFReader(tmp_path / "gguf" / "model.gguf").fields
    ids = [fields[f"tokenizer.ggml.{name}_token_id"].contents() for name in ("eos", "eot", "eom")]
    assert ids == [end, 5, 7]
    texts = [source.tokenizer.decode([index]) for index in (end, 5, 7)]
    lines = (tmp_path / "gguf" / "Modelfile").read_text().splitlines()
    quoted = ['"' * (3 if '"' in text else 1) for text in texts]
    for text, quote in zip(texts, quoted, strict=True):
        assert f"PARAMETER stop {quote}{text}{quote}" in lines


def test_an_export_of_pickled_weights_keeps_them(folder, tmp_path):
    import torch
    from safetensors.torch import load_file

    (folder / "generation_config.json").unlink()
    change(folder, "config", eos_token_id=[5, 7], scale_attn_by_inverse_layer_idx=True)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    write_hugging_face_folder(open_model_folder(str(folder)), tmp_path / "out", overwrite=False)
    before, after = (load_model_folder(str(each)) for each in (folder, tmp_path / "out"))
    assert before.end_ids == after.end_ids == {before.tokenizer.end_id, 5, 7}
    for name, tensor in before.model.state_dict().items():
        assert torch.equal(tensor, after.model.state_dict()[name]), name
    theirs = transformers.AutoConfig.from_pretrained(tmp_path / "out")
    assert theirs.eos_token_id == [before.tokenizer.end_id, 5, 7]


def test_a_token_that_the_tokenizer_added_beyond_the_model_does_no_harm(folder):
    change(folder, "added_tokens", **{"[PAD]": 280})
    change(folder, "special_tokens_map", pad_token="[PAD]")
    assert answer(folder).num_new_tokens == 12
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}[PAD]")
    with pytest.raises(UserError, match="the model has no weights for '\\[PAD\\]'"):
        answer(folder)


def test_a_foreign_end_token_goes_through_training_files(tmp_path):
    """A model folder of a tokenizer with another end token says so in every file."""
    import tokenizers

    tokenizer = train_tokenizer(["Hello there, how are you?"] * 3, 280)
    backend = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    backend.add_special_tokens(["</s>"])
    other = type(tokenizer)(backend, {"eos_token": "</s>"})
    model = random_model(tiny_config(vocab_size=other.vocab_size))
    save_model_folder(tmp_path / "model", model, other, GREEDY)
    loaded = load_model_folder(str(tmp_path / "model"))
    assert loaded.tokenizer.end_token == "</s>"
    assert loaded.end_ids == {other.end_id}
    talk = [Message("user", "a"), Message("assistant", "b"), Message("user", "c")]
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "model").apply_chat_template(
        [{"role": m.role, "content": m.content} for m in talk], return_dict=True
    )
    assert loaded.template(talk) == theirs["input_ids"]
    assert loaded.template(talk).count(other.end_id) == 1


def test_pickled_weights_are_fetched_where_the_hub_has_no_others(tmp_path, monkeypatch):
    """The hub here is a folder, and what is fetched are the files of the patterns."""
    import shutil

    from src.model.pretrained import load_pretrained

    hub, cache = tmp_path / "hub", tmp_path / "cache"
    hub.mkdir()
    cache.mkdir()
    model = random_model(tiny_config())
    save_pretrained(model, hub, end_id=96)
    fetched = []

    def download_model(name, patterns):
        for pattern in patterns:
            for path in hub.glob(pattern):
                fetched.append(path.name)
                shutil.copyfile(path, cache / path.name)

    monkeypatch.setattr("src.hub.cached_snapshot", lambda name, patterns: cache)
    monkeypatch.setattr("src.hub.download_model", download_model)
    (hub / "pytorch_model.bin").write_bytes(b"not asked for where there is another")
    load_pretrained("owner/name")
    assert fetched == ["config.json", "model.safetensors"]

    import torch
    from safetensors.torch import load_file

    fetched.clear()
    torch.save(load_file(hub / "model.safetensors"), hub / "pytorch_model.bin")
    for folder in (hub, cache):
        (folder / "model.safetensors").unlink()
    loaded = load_pretrained("owner/name")
    assert torch.equal(loaded.wte.weight, model.wte.weight)
    assert "pytorch_model.bin" in fetched
    fetched.clear()
    load_pretrained("owner/name")  # from the cache
    assert not fetched
