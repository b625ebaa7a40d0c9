"""Folders as other people have them: each gives the logits of transformers, or one clear line."""

import json
import logging
import pickle
import zipfile

import pytest
import torch
import transformers

from src.errors import UserError
from src.model.footprint import num_parameters
from src.model.pretrained import load_pretrained, save_pretrained
from tests.model.conftest import random_model, tiny_config
from tests.model.test_pretrained import disturb, reference, set_config

INPUT_IDS = torch.randint(97, (2, 40), generator=torch.Generator().manual_seed(0))


def theirs(**changes) -> transformers.GPT2LMHeadModel:
    model = reference(2, 4, 32, **({"vocab_size": 97, "n_positions": 64} | changes))
    for _ in range(6):
        disturb(model)  # scores that differ enough for the softmax to matter
    return model


@torch.no_grad()
def assert_same_logits(model, folder) -> None:
    ours = load_pretrained(str(folder)).eval()
    expected = model(INPUT_IDS).logits
    assert expected.std() > 0.5
    torch.testing.assert_close(ours.logits(ours(INPUT_IDS)), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"scale_attn_by_inverse_layer_idx": True},
        {"scale_attn_weights": False},
        {"scale_attn_by_inverse_layer_idx": True, "scale_attn_weights": False},
        {"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True},
        {"n_inner": 48},
        {"n_inner": 128},
        {"layer_norm_epsilon": 1e-3},
        {"activation_function": "gelu_pytorch_tanh"},
        {"activation_function": "gelu_python"},
    ],
    ids=str,
)
def test_what_a_config_may_say_gives_the_logits_of_transformers(changes, tmp_path):
    model = theirs(**changes)
    model.save_pretrained(tmp_path)
    assert_same_logits(model, tmp_path)
    (tmp_path / "again").mkdir()
    save_pretrained(load_pretrained(str(tmp_path)), tmp_path / "again", end_id=96)
    assert_same_logits(model, tmp_path / "again")


@pytest.mark.parametrize("key", ["n_layer", "n_head", "n_embd", "n_positions", "vocab_size"])
def test_a_key_that_is_missing_has_the_default_of_transformers(key, tmp_path):
    default = getattr(transformers.GPT2Config(), key)
    others = {"n_layer": 1, "n_head": 4, "n_embd": 48, "n_positions": 16, "vocab_size": 97}
    model = random_model(tiny_config(**others | {key: default}))
    save_pretrained(model, tmp_path, end_id=96)
    config = json.loads((tmp_path / "config.json").read_text())
    for name in (key, "n_ctx", "n_inner", "activation_function", "layer_norm_epsilon"):
        config.pop(name, None)
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load_pretrained(str(tmp_path)).config == model.config


def test_other_names_of_the_same_keys_and_a_byte_order_mark(tmp_path):
    model = theirs()
    model.save_pretrained(tmp_path)
    names = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = {"model_type": "gpt2", "vocab_size": 97, "max_position_embeddings": 64, **names}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8-sig")
    assert_same_logits(model, tmp_path)


def test_an_inner_width_is_counted():
    config = tiny_config(n_inner=48)
    assert num_parameters(config) == random_model(config).num_parameters


def test_a_file_of_2019_names_no_model_type(tmp_path):
    model = theirs()
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["model_type"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert_same_logits(model, tmp_path)


def pickle_shards(model, folder) -> None:
    model.config.save_pretrained(folder)
    state = model.state_dict()
    names = sorted(state)
    parts = [names[0::2], names[1::2]]
    weight_map = {}
    for number, part in enumerate(parts, start=1):
        file = f"pytorch_model-{number:05}-of-00002.bin"
        torch.save({name: state[name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


def test_pickled_shards(tmp_path):
    model = theirs()
    pickle_shards(model, tmp_path)
    assert_same_logits(model, tmp_path)
    (tmp_path / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(UserError, match=r"1 of the 2 files that .* lists are missing"):
        load_pretrained(str(tmp_path))


@pytest.mark.parametrize("prefix", ["", "transformer.", "module.transformer.", "_orig_mod."])
def test_any_prefix_and_the_masks_of_old_files(prefix, tmp_path, caplog):
    model = theirs()
    model.config.save_pretrained(tmp_path)
    state = {
        name.replace("transformer.", prefix): tensor
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"
    }
    state[f"{prefix}h.0.attn.bias"] = torch.ones(1, 1, 64, 64, dtype=torch.uint8)
    state[f"{prefix}h.0.attn.masked_bias"] = torch.tensor(-1e4)
    state["lm_head.weight"] = model.lm_head.weight.detach()
    torch.save(state, tmp_path / "pytorch_model.bin")
    assert_same_logits(model, tmp_path)
    assert not caplog.records


def test_tensors_of_another_head_are_left_out_and_named(tmp_path, caplog):
    model = theirs()
    model.config.save_pretrained(tmp_path)
    state = model.state_dict() | {
        "multiple_choice_head.summary.weight": torch.ones(1, 32),
        "score.weight": torch.ones(2, 32),
    }
    torch.save(state, tmp_path / "pytorch_model.bin")
    with caplog.at_level(logging.WARNING):
        assert_same_logits(model, tmp_path)
    (record,) = caplog.records
    assert "2 tensors" in record.getMessage()
    assert "multiple_choice_head.summary.weight, score.weight" in record.getMessage()


class Code:
    """What a pickle may hold: it would write a file."""

    def __reduce__(self):
        import os

        return os.mkdir, ("pickle_ran",)


def test_a_pickle_runs_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    theirs().config.save_pretrained(tmp_path)
    torch.save({"transformer.wte.weight": Code()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model\.bin cannot be read") as error:
        load_pretrained(str(tmp_path))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "pickle_ran").exists()


def untied(folder):
    model = theirs(tie_word_embeddings=False)
    model.save_pretrained(folder)


def index(folder, shard):
    content = {"weight_map": {"wte.weight": shard}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 548105171\n"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (untied, "not tied"),
        (lambda f: (f / "model.safetensors").write_text(POINTER), "git-lfs pointer.*git lfs pull"),
        (lambda f: (f / "config.json").write_text(POINTER), "git-lfs pointer"),
        (lambda f: index(f, "../model.safetensors"), "no name of a file beside it"),
        (lambda f: index(f, "/etc/passwd"), "no name of a file beside it"),
        (lambda f: index(f, 3), "no name of a file beside it"),
        (lambda f: index(f, "absent.safetensors"), "missing, for example absent"),
        (lambda f: set_config(f, n_embd="32"), "n_embd='32' is no whole number"),
        (lambda f: set_config(f, quantization_config={}), "quantized"),
        (lambda f: set_config(f, n_layer=10**9), "do not fit its config.json"),
        (lambda f: set_config(f, tie_word_embeddings=False), "tie_word_embeddings=false"),
        (lambda f: (f / "config.json").rename(f / "adapter_config.json"), "merge it into its base"),
    ],
)
def test_what_cannot_be_used_is_one_line(damage, message, tmp_path):
    save_pretrained(random_model(tiny_config()), tmp_path, end_id=96)
    damage(tmp_path)
    with pytest.raises(UserError, match=message) as error:
        load_pretrained(str(tmp_path))
    assert "\n" not in str(error.value)


def test_of_a_run_folder_its_model_is_taken(tmp_path):
    model = random_model(tiny_config())
    (tmp_path / "model").mkdir()
    save_pretrained(model, tmp_path / "model", end_id=96)
    assert torch.equal(load_pretrained(str(tmp_path)).wte.weight, model.wte.weight)


def bytes_of_an_old_file(content: bytes) -> bytes:
    """A file of torch before 1.6 whose state is ``content``."""
    return b"".join(pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, {})) + content


def test_an_old_file_gives_the_logits_of_transformers(tmp_path):
    model = theirs()
    model.config.save_pretrained(tmp_path)
    path = tmp_path / "pytorch_model.bin"
    torch.save(model.state_dict(), path, _use_new_zipfile_serialization=False)
    assert_same_logits(model, tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps(Code(), 2), r"it would run posix\.mkdir"),
        (b"\x80\x02X\xff\xff\xff\x7f", "cannot be read"),
        (b"\x80\x02}r\xff\xff\xff\x7f.", "no tensors by name"),
        (b"\x80\x02}(K\x00q\x00" + b"h\x00h\x00\x86q\x01h\x01h\x01\x86K\x01u.", "by name"),
    ],
)
def test_an_old_file_makes_nothing_but_tensors(content, message, tmp_path):
    theirs().config.save_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(bytes_of_an_old_file(content))
    with pytest.raises(UserError, match=message):
        load_pretrained(str(tmp_path))


def test_a_tensor_larger_than_its_numbers_and_a_compressed_file_are_refused(tmp_path):
    model = theirs()
    model.config.save_pretrained(tmp_path)
    path = tmp_path / "pytorch_model.bin"
    state = model.state_dict()
    torch.save(state | {"transformer.wte.weight": torch.zeros(1).expand(97, 32)}, path)
    with pytest.raises(UserError, match="larger than its numbers"):
        load_pretrained(str(tmp_path))
    torch.save(state, path)
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(tmp_path / "b", "w", 8) as smaller:
        for name in whole.namelist():
            smaller.writestr(name, whole.read(name))
    (tmp_path / "b").replace(path)
    with pytest.raises(UserError, match="it is compressed"):
        load_pretrained(str(tmp_path))


def test_weights_that_do_not_fit_into_memory_are_refused_before_they_are_read(
    tmp_path, monkeypatch
):
    save_pretrained(random_model(tiny_config()), tmp_path, end_id=96)
    monkeypatch.setattr("src.free_memory.UNWATCHED", 0)
    monkeypatch.setattr("src.free_memory.free_memory", lambda: 1000)
    monkeypatch.setattr("src.free_memory.has_hard_limit", lambda: True)
    monkeypatch.setattr("src.model.weights_file.safe_open", None)
    with pytest.raises(UserError, match=r"its weights: 0.2 MiB are needed and 1.0 KiB are free"):
        load_pretrained(str(tmp_path))


@pytest.mark.parametrize(
    "changes", [{"n_layer": 10**7}, {"vocab_size": 10**9}, {"n_positions": 65}, {"n_inner": 64}]
)
def test_shapes_are_compared_before_anything_is_read_or_built(changes, tmp_path, monkeypatch):
    save_pretrained(random_model(tiny_config()), tmp_path, end_id=96)
    set_config(tmp_path, **changes)
    monkeypatch.setattr("src.model.weights_file.safe_open", None)
    monkeypatch.setattr("src.model.pretrained.GPT2", None)
    with pytest.raises(UserError, match=r"do not fit its config\.json"):
        load_pretrained(str(tmp_path))
