import copy
import json

import gguf
import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from src.data.template import JINJA
from src.data.tokenizer import Tokenizer, train_tokenizer
from src.errors import UserError
from src.exporting.gguf_file import pre_tokenizer, write_gguf
from src.talk.model_folder import load_model_folder
from tests.exporting.conftest import TEXTS
from tests.model.conftest import random_model, tiny_config


@pytest.fixture(scope="module")
def trained(model_folder):
    model, tokenizer, *_ = load_model_folder(str(model_folder))
    return model, tokenizer


@pytest.fixture
def export(tmp_path, trained):
    """Write a GGUF and read it back."""

    def run(model=None, tokenizer=None, template=None, dtype="f32") -> gguf.GGUFReader:
        path = tmp_path / "model.gguf"
        write_gguf(
            path, model or trained[0], tokenizer or trained[1], template or JINJA, dtype, "some"
        )
        return gguf.GGUFReader(path)

    return run


def fields(reader: gguf.GGUFReader) -> dict:
    return {name: field.contents() for name, field in reader.fields.items()}


# As llama.cpp's src/llama-arch.cpp lists them for GPT-2: {in, out} there, so (out, in) here.
NAMES = {
    "wte": "token_embd",
    "wpe": "position_embd",
    "ln_f": "output_norm",
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}


def llama_name(ours: str) -> str:
    module, kind = ours.rsplit(".", 1)
    if not module.startswith("h."):
        return f"{NAMES[module]}.{kind}"
    _, layer, rest = module.split(".", 2)
    return f"blk.{layer}.{NAMES[rest]}.{kind}"


def test_every_weight_is_there_under_its_name_bit_for_bit(export, trained):
    found = {tensor.name: tensor.data for tensor in export().tensors}
    expected = {llama_name(k): v.detach().numpy() for k, v in trained[0].state_dict().items()}
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert np.array_equal(found[name], values), name


@pytest.mark.parametrize(("dtype", "tolerance"), [("f16", 5e-4), ("q8_0", 5e-3)])
def test_matrices_shrink_vectors_and_positions_do_not(export, trained, dtype, tolerance):
    ours = {llama_name(k): v.detach().numpy() for k, v in trained[0].state_dict().items()}
    for tensor in export(dtype=dtype).tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        exact = ours[tensor.name].ndim == 1 or tensor.name == "position_embd.weight"
        assert tensor.tensor_type.name == ("F32" if exact else dtype.upper())
        scale = np.abs(ours[tensor.name]).max()
        assert np.abs(values - ours[tensor.name]).max() <= (0 if exact else tolerance * scale)


def test_rows_that_blocks_of_32_do_not_fill_are_halved_instead(export, trained):
    model = random_model(tiny_config(vocab_size=trained[1].vocab_size, n_embd=40, n_head=2))
    types = {t.name: t.tensor_type.name for t in export(model, dtype="q8_0").tensors}
    assert types["token_embd.weight"] == "F16"
    assert types["blk.0.ffn_down.weight"] == "Q8_0"  # 160 wide


@pytest.mark.filterwarnings("error")  # numpy's is for nobody
@pytest.mark.parametrize(
    ("dtype", "layer", "too_large"),
    [("f16", "h.0.mlp.c_fc", 65520.0), ("f16", "wte", -1e38), ("q8_0", "h.0.mlp.c_fc", 9e6)],
)
def test_a_weight_that_a_type_cannot_hold_is_refused_and_not_written_as_infinity(
    export, trained, dtype, layer, too_large
):
    model = copy.deepcopy(trained[0])
    weight = model.get_submodule(layer).weight
    weight.data[3, 4] = too_large
    with pytest.raises(UserError, match=rf"^{layer}.weight .*{dtype}.*dtype=f32") as error:
        export(model, dtype=dtype)
    assert "\n" not in str(error.value)
    assert export(model, dtype="f32")


def test_it_says_what_it_is(export, trained, model_folder):
    config = json.loads((model_folder / "config.json").read_text())
    found = fields(export())
    expected = {
        "general.architecture": "gpt2",
        "general.type": "model",
        "general.name": "some",
        "general.file_type": gguf.LlamaFileType.ALL_F32,
        "gpt2.context_length": config["n_positions"],
        "gpt2.embedding_length": config["n_embd"],
        "gpt2.block_count": config["n_layer"],
        "gpt2.feed_forward_length": 4 * config["n_embd"],
        "gpt2.attention.head_count": config["n_head"],
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.bos_token_id": trained[1].end_id,
        "tokenizer.ggml.eos_token_id": trained[1].end_id,
        "tokenizer.ggml.padding_token_id": trained[1].end_id,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.chat_template": JINJA,
    }
    assert {name: found[name] for name in expected} == expected
    epsilon = found["gpt2.attention.layer_norm_epsilon"]
    assert epsilon == pytest.approx(config["layer_norm_epsilon"])
    assert fields(export(template="{{ 1 }}", dtype="q8_0"))["tokenizer.chat_template"] == "{{ 1 }}"


def test_the_tokenizer_read_back_gives_the_same_ids(export, trained):
    found = fields(export())
    tokens, types = found["tokenizer.ggml.tokens"], found["tokenizer.ggml.token_type"]
    assert len(tokens) == len(types) == trained[0].config.vocab_size
    unused = [i for i, kind in enumerate(types) if kind == gguf.TokenType.UNUSED]
    assert unused == [len(tokens) - 3, len(tokens) - 2, len(tokens) - 1]  # the model has three more
    control = [i for i, kind in enumerate(types) if kind == gguf.TokenType.CONTROL]
    assert control == [trained[1].end_id]
    assert tokens[trained[1].end_id] == "<|endoftext|>"

    merges = [tuple(merge.split(" ")) for merge in found["tokenizer.ggml.merges"]]
    bpe = models.BPE({token: i for i, token in enumerate(tokens)}, merges)
    again = tokenizers.Tokenizer(bpe)
    splits = [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    again.pre_tokenizer = pre_tokenizers.Sequence(splits)
    again.decoder = decoders.ByteLevel()
    for text in TEXTS:
        ids = again.encode(text).ids
        assert ids == trained[1].encode(text)
        assert again.decode(ids) == text


def test_the_pre_tokenizer_is_the_one_that_splits_alike(export, gpt2_tokenizer):
    assert fields(export())["tokenizer.ggml.pre"] == "smollm"
    assert pre_tokenizer(json.loads(gpt2_tokenizer.backend.to_str())) == "gpt-2"


def changed(tokenizer: Tokenizer, **parts) -> Tokenizer:
    backend = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    for name, part in parts.items():
        setattr(backend, name, part)
    return Tokenizer(backend)


def with_stripping_token(tokenizer: Tokenizer) -> Tokenizer:
    other = changed(tokenizer)
    other.backend.add_tokens([tokenizers.AddedToken("<user>", lstrip=True)])
    return other


PECULIAR = {
    r"splits a text in a way \(Whitespace\)": lambda t: changed(
        t, pre_tokenizer=pre_tokenizers.Whitespace()
    ),
    r"splits a text in a way \(ByteLevel\)": lambda t: changed(
        t, pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True)
    ),
    r"splits a text in a way \(Digits, ByteLevel\)": lambda t: changed(
        t,
        pre_tokenizer=pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(False), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        ),
    ),
    "has a normalizer": lambda t: changed(t, normalizer=normalizers.NFC()),
    "takes spaces beside it": with_stripping_token,
    "merges nothing": lambda t: train_tokenizer(["a"], 257),
}


@pytest.mark.parametrize("message", PECULIAR)
def test_a_tokenizer_that_llama_cpp_has_not_is_refused(export, trained, message, tmp_path):
    with pytest.raises(UserError, match=message):
        export(tokenizer=PECULIAR[message](trained[1]))
    assert not (tmp_path / "model.gguf").exists()


def test_an_added_token_that_is_no_special_one_is_the_users(export, trained):
    other = changed(trained[1])
    other.backend.add_tokens(["<user>"])
    found = fields(export(tokenizer=other))
    index = other.backend.token_to_id("<user>")
    assert found["tokenizer.ggml.tokens"][index] == "<user>"
    assert found["tokenizer.ggml.token_type"][index] == gguf.TokenType.USER_DEFINED


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({}, None),
        ({"activation": "gelu"}, "gelu_new, this one has gelu"),
        ({"n_positions": 300}, "aborts beyond this model's 300 positions"),
    ],
)
def test_what_llama_cpp_does_otherwise_is_said(export, trained, caplog, shape, message):
    values = {"vocab_size": trained[1].vocab_size, "n_positions": 256} | shape
    export(random_model(tiny_config(**values)))
    said = [each.getMessage() for each in caplog.records if each.name.startswith("src")]
    assert len(said) == (message is not None)
    assert (message or "") in "".join(said)
