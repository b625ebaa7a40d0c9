import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

from src.errors import UserError
from src.exporting.exports import (
    open_checkpoint,
    open_model_folder,
    write_gguf_folder,
    write_hugging_face_folder,
)
from src.model.pretrained import to_hugging_face
from src.talk.assistant import Assistant
from src.talk.messages import Message
from src.talk.model_folder import load_model_folder
from src.training.checkpoints import read_weights, resolve_checkpoint
from tests.conftest import greedy
from tests.model.conftest import random_model

QUESTIONS = ("how are you?", "What is 12 + 3?", "Hello\nthere")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def copy(model_folder, tmp_path):
    """The model folder again, to be damaged."""
    return shutil.copytree(model_folder, tmp_path / "some_run" / "model")


def test_a_runs_model_is_copied_as_it_is(model_folder, tmp_path):
    trained = open_model_folder(str(model_folder))
    assert trained.name == "some_run"
    write_hugging_face_folder(trained, tmp_path / "out", overwrite=False)
    assert contents(tmp_path / "out") == contents(model_folder)


def test_a_copy_that_went_wrong_is_noticed_and_not_left(model_folder, tmp_path, monkeypatch):
    def flip(source, target):
        content = bytearray(source.read_bytes())
        content[-5] ^= 1
        target.write_bytes(content)

    monkeypatch.setattr("src.exporting.exports.shutil.copyfile", flip)
    with pytest.raises(UserError, match="output="):
        write_hugging_face_folder(open_model_folder(str(model_folder)), tmp_path / "out", False)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_a_template_gets_the_one_it_is_spoken_to_with(copy, tmp_path):
    (copy / "chat_template.jinja").unlink()
    write_hugging_face_folder(open_model_folder(str(copy)), tmp_path / "out", overwrite=False)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    text = theirs.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert text == "### Prompt: Hi\n### Response:"


def test_pickled_weights_become_safetensors(copy, tmp_path, model_folder):
    model, *_ = load_model_folder(str(model_folder))
    torch.save(to_hugging_face(model.state_dict()), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    write_hugging_face_folder(open_model_folder(str(copy)), tmp_path / "out", overwrite=False)
    assert contents(tmp_path / "out").keys() == contents(model_folder).keys()
    again, *_ = load_model_folder(str(tmp_path / "out"))
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_transformers_pipeline_chats_with_the_export(model_folder, tmp_path):
    write_hugging_face_folder(open_model_folder(str(model_folder)), tmp_path / "m", False)
    pipe = transformers.pipeline("text-generation", str(tmp_path / "m"), dtype=torch.float32)
    ours = Assistant(*load_model_folder(str(model_folder)))
    for question in QUESTIONS:
        chat = [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello!"},
            {"role": "user", "content": question},
        ]
        (out,) = pipe(chat)
        reply = out["generated_text"][-1]
        assert reply["role"] == "assistant"
        said = [Message(**message) for message in chat]
        assert reply["content"].lstrip() == ours.reply(said, greedy(12)).read_all()


@pytest.fixture
def run(copy):
    """A run folder whose checkpoint has other weights than its model folder."""
    model, *_ = load_model_folder(str(copy))
    other = random_model(model.config, seed=1)
    state = {f"model.{name}": tensor for name, tensor in other.state_dict().items()}
    path = copy.parent / "checkpoints" / "last.ckpt"
    path.parent.mkdir()
    torch.save({"state_dict": state | {"grad_norm": torch.zeros(())}, "global_step": 40}, path)
    return copy.parent, other


def opened(name):
    path = resolve_checkpoint(str(name))
    return open_checkpoint(path, *read_weights(path))


@pytest.mark.parametrize("named", ["", "checkpoints/last.ckpt"])
def test_a_checkpoint_gives_its_own_weights_and_the_runs_other_files(run, named, tmp_path):
    folder, model = run
    trained = opened(folder / named)
    assert trained.name == "some_run-step40"
    write_hugging_face_folder(trained, tmp_path / "out", overwrite=False)
    again, *_ = load_model_folder(str(tmp_path / "out"))
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    theirs, ours = contents(folder / "model"), contents(tmp_path / "out")
    assert theirs.keys() == ours.keys()
    assert {name for name in theirs if theirs[name] != ours[name]} == {"model.safetensors"}


def test_a_checkpoint_becomes_a_gguf(run, tmp_path):
    import gguf

    write_gguf_folder(opened(run[0]), tmp_path / "out", "f32", overwrite=False)
    assert sorted(contents(tmp_path / "out")) == ["Modelfile", "model.gguf"]
    (embedding,) = [
        tensor.data
        for tensor in gguf.GGUFReader(tmp_path / "out" / "model.gguf").tensors
        if tensor.name == "token_embd.weight"
    ]
    assert (embedding == run[1].wte.weight.detach().numpy()).all()


class Trap:
    """A pickle that does something when it is opened."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def break_checkpoint(kind, folder):
    path = folder / "checkpoints" / "last.ckpt"
    if kind == "no zip":
        path.write_bytes(b"not a checkpoint")
    elif kind == "flipped byte":
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif kind == "code inside":
        state = {"state_dict": {}, "global_step": 1, "trap": Trap(folder / "sprung")}
        torch.save(state, path)
    elif kind == "something else":
        torch.save([1, 2, 3], path)
    elif kind == "other weights":
        torch.save({"state_dict": {"model.x": torch.zeros(1)}, "global_step": 1}, path)
    elif kind == "alone":
        shutil.rmtree(folder / "model")
    else:
        path.unlink()
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("no zip", "is damaged, or no checkpoint"),
        ("flipped byte", "is damaged, or no checkpoint"),
        ("code inside", "is no checkpoint of a training run"),
        ("something else", "is no checkpoint of a training run"),
        ("other weights", "its weights are not those of"),
        ("alone", "leave the checkpoint in its run folder"),
        ("gone", "there is no such file or folder"),
    ],
)
def test_a_bad_checkpoint_is_refused_in_one_line(run, kind, message):
    path = break_checkpoint(kind, run[0])
    with pytest.raises(UserError, match=message) as error:
        opened(path)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("checkpoint=")
    assert not (run[0] / "sprung").exists()


def test_a_folder_without_checkpoints_is_refused(tmp_path):
    with pytest.raises(UserError, match="no checkpoint in it: name a run folder"):
        resolve_checkpoint(str(tmp_path))


def break_folder(kind, folder):
    weights = folder / "model.safetensors"
    if kind == "flipped byte":
        content = bytearray(weights.read_bytes())
        content[-100] ^= 1
        weights.write_bytes(content)
    elif kind == "half":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif kind == "no tokenizer":
        (folder / "tokenizer.json").unlink()
    elif kind == "two templates":
        (folder / "chat_template.jinja").unlink()
        both = {"chat_template": [{"name": "a", "template": "x"}]}
        (folder / "tokenizer_config.json").write_text(json.dumps(both))
    elif kind == "broken settings":
        (folder / "chat_template.jinja").unlink()
        (folder / "tokenizer_config.json").write_text("{")
    elif kind == "another model":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("flipped byte", "is damaged: its checksum is wrong"),
        ("half", r"model\.safetensors cannot be read"),
        ("no tokenizer", r"holds neither tokenizer\.json"),
        ("two templates", "several chat templates"),
        ("broken settings", r"tokenizer_config\.json is broken"),
        ("another model", "model_type is llama, not gpt2"),
    ],
)
def test_a_broken_folder_is_not_exported(copy, kind, message):
    break_folder(kind, copy)
    with pytest.raises(UserError, match=message) as error:
        open_model_folder(str(copy))
    assert "\n" not in str(error.value)


def test_a_name_is_fit_for_a_file(model_folder, tmp_path):
    strange = shutil.copytree(model_folder, tmp_path / "a b, (c)=1")
    assert open_model_folder(str(strange)).name == "a_b_c_=1"


@pytest.fixture
def cluttered(copy):
    """A model folder with what a killed run, a person and other programs have left in it."""
    parts = (
        ".model.safetensors.1073741824.tmp",
        ".tokenizer.json.1073741824.tmp",
        ".x.safetensors",
    )
    others = ("last.ckpt", "optimizer.safetensors", "model-00001-of-00002.safetensors", "notes.txt")
    for name in parts + others:
        (copy / name).write_bytes(b"not the model's")
    (copy / ".config.json.1073741824.tmp").mkdir()
    (copy / "tokenizer_old.json").mkdir()
    return copy


def test_only_what_belongs_to_the_model_is_exported(cluttered, model_folder, tmp_path):
    write_hugging_face_folder(open_model_folder(str(cluttered)), tmp_path / "out", overwrite=False)
    assert contents(tmp_path / "out") == contents(model_folder)


def test_shards_are_exported_with_their_index_and_nothing_else(cluttered, tmp_path):
    (cluttered / "model.safetensors").rename(cluttered / "a.safetensors")
    names = load_file(cluttered / "a.safetensors").keys()
    index = {"weight_map": dict.fromkeys(names, "a.safetensors")}
    (cluttered / "model.safetensors.index.json").write_text(json.dumps(index))
    write_hugging_face_folder(open_model_folder(str(cluttered)), tmp_path / "out", overwrite=False)
    weights = {name for name in contents(tmp_path / "out") if "safetensors" in name}
    assert weights == {"a.safetensors", "model.safetensors.index.json"}


def test_no_file_from_elsewhere_is_exported(copy, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("a person's key")
    (copy / "other.jinja").symlink_to(secret)
    with pytest.raises(
        UserError, match=r"jinja is a link to .*secret, which is not in this folder"
    ):
        write_hugging_face_folder(open_model_folder(str(copy)), tmp_path / "out", overwrite=False)
    assert not (tmp_path / "out").exists()


def test_a_snapshot_of_the_hubs_cache_is_exported_though_its_files_are_links(copy, tmp_path):
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0123"
    blobs = tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for path in copy.iterdir():
        path.rename(blobs / path.name)
        (snapshot / path.name).symlink_to(Path("../../blobs") / path.name)
    write_hugging_face_folder(open_model_folder(str(snapshot)), tmp_path / "out", overwrite=False)
    assert contents(tmp_path / "out") == contents(blobs)
    assert not any(path.is_symlink() for path in (tmp_path / "out").iterdir())


@pytest.mark.parametrize("dtype", ["f32", "f16", "q8_0"])
def test_a_disk_without_room_is_told_what_is_needed(model_folder, tmp_path, dtype, monkeypatch):
    monkeypatch.setattr("src.files.disk.LARGE", 1)
    monkeypatch.setattr("src.files.disk.free_bytes", lambda folder: 10)
    source = open_model_folder(str(model_folder))
    with pytest.raises(
        UserError, match=r"No space left on device \(it needs .* kB, 10 bytes free\)"
    ):
        write_gguf_folder(source, tmp_path / "out", dtype, overwrite=False)
    with pytest.raises(UserError, match="it needs"):
        write_hugging_face_folder(source, tmp_path / "out", overwrite=False)
    assert list(tmp_path.iterdir()) == []
