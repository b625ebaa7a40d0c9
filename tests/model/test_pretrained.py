import json

import pytest
import torch
import transformers

from src.errors import UserError
from src.model.config import GPT2Config
from src.model.gpt2 import GPT2
from src.model.pretrained import (
    from_hugging_face,
    load_pretrained,
    save_pretrained,
    tensor_shapes,
    to_hugging_face,
)
from tests.model.conftest import random_model, tiny_config

SIZES = {"gpt2": (12, 12, 768), "medium": (24, 16, 1024), "large": (36, 20, 1280)}
SIZES["xl"] = (48, 25, 1600)
PARAMETERS = {"gpt2": 124439808, "medium": 354823168, "large": 774030080, "xl": 1557611200}


def reference(n_layer: int, n_head: int, n_embd: int, **changes) -> transformers.GPT2LMHeadModel:
    shape = {"n_layer": n_layer, "n_head": n_head, "n_embd": n_embd, **changes}
    config = transformers.GPT2Config(
        **shape, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False
    )
    return transformers.GPT2LMHeadModel(config).eval()


@torch.no_grad()
def disturb(model: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter += 0.05 * torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("size", SIZES)
def test_logits_equal_hugging_face_at_the_width_of_each_size(size, tmp_path):
    _, n_head, n_embd = SIZES[size]
    theirs = reference(2, n_head, n_embd, vocab_size=503, n_positions=64)
    disturb(theirs)
    theirs.save_pretrained(tmp_path)
    ours = load_pretrained(str(tmp_path)).eval()
    input_ids = torch.randint(503, (2, 48), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs(input_ids).logits
        actual = ours.logits(ours(input_ids))
    assert expected.std() > 0.5  # a comparison of zeros would prove nothing
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", SIZES)
def test_the_key_map_covers_every_weight_of_each_size(size):
    n_layer, n_head, n_embd = SIZES[size]
    with torch.device("meta"):
        theirs = reference(n_layer, n_head, n_embd)
        ours = GPT2(GPT2Config(50257, 1024, n_embd, n_layer, n_head, "gelu_new", 0.0))
    expected = {k: v.shape for k, v in theirs.state_dict().items() if k != "lm_head.weight"}
    assert {k: v.shape for k, v in to_hugging_face(ours.state_dict()).items()} == expected
    assert ours.num_parameters == PARAMETERS[size]


def test_import_then_export_gives_identical_tensors(tmp_path):
    theirs = reference(2, 4, 32, vocab_size=97, n_positions=64)
    theirs.save_pretrained(tmp_path / "theirs")
    save_pretrained(load_pretrained(str(tmp_path / "theirs")), tmp_path, end_id=96)
    again = transformers.GPT2LMHeadModel.from_pretrained(tmp_path, dtype=torch.float32)
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_export_then_import_gives_identical_tensors_and_shape(tmp_path):
    model = random_model(tiny_config(activation="gelu", layer_norm_epsilon=1e-6))
    save_pretrained(model, tmp_path, end_id=96)
    again = load_pretrained(str(tmp_path))
    assert again.config == model.config
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    assert all(parameter.requires_grad for parameter in again.parameters())


def test_old_files_without_prefix_and_with_mask_buffers_load():
    model = random_model(tiny_config())
    state = to_hugging_face(model.state_dict())
    old = {name.removeprefix("transformer."): tensor for name, tensor in state.items()}
    old["h.0.attn.bias"] = torch.ones(1, 1, 64, 64)
    old["h.0.attn.masked_bias"] = torch.tensor(-1e4)
    loaded = from_hugging_face(old)
    assert loaded.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("n_inner", [None, 48])
def test_shapes_are_known_before_a_model_is_built(n_inner):
    config = tiny_config(n_inner=n_inner)
    expected = {name: tuple(tensor.shape) for name, tensor in GPT2(config).state_dict().items()}
    assert dict(tensor_shapes(config)) == expected


@pytest.mark.parametrize("form", ["sharded", "pickled", "bfloat16"])
def test_other_file_forms_load_in_float32(form, tmp_path):
    theirs = reference(2, 4, 32, vocab_size=97, n_positions=64)
    if form == "sharded":
        theirs.save_pretrained(tmp_path, max_shard_size="40KB")
        assert len(list(tmp_path.glob("*.safetensors"))) > 1
    elif form == "pickled":
        theirs.config.save_pretrained(tmp_path)
        torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    else:
        theirs.to(torch.bfloat16).save_pretrained(tmp_path)
    ours = load_pretrained(str(tmp_path))
    assert ours.wte.weight.dtype == torch.float32
    torch.testing.assert_close(ours.wte.weight, theirs.transformer.wte.weight.float())


def test_an_untied_head_is_refused():
    state = to_hugging_face(random_model(tiny_config()).state_dict())
    state["lm_head.weight"] = torch.zeros(97, 32)
    with pytest.raises(UserError, match="not tied"):
        from_hugging_face(state)


def flip_a_byte(folder):
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)


def set_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip_a_byte, "checksum"),
        (lambda f: (f / "model.safetensors").unlink(), "no weights in it"),
        (lambda f: (f / "model.safetensors").write_bytes(b"short"), "cannot be read"),
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "config.json is broken"),
        (lambda f: set_config(f, model_type="llama"), "llama, not gpt2"),
        (lambda f: set_config(f, n_layer=4), "do not fit its config.json"),
        (lambda f: set_config(f, add_cross_attention=True), "not supported"),
        (lambda f: set_config(f, activation_function="relu"), "activation_function='relu'"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused_in_one_line(damage, message, tmp_path):
    save_pretrained(random_model(tiny_config()), tmp_path, end_id=96)
    damage(tmp_path)
    with pytest.raises(UserError, match=message) as error:
        load_pretrained(str(tmp_path))
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_folder_is_refused():
    with pytest.raises(UserError, match="no such folder"):
        load_pretrained("./nowhere")


def test_saving_again_replaces_the_weights_in_one_step_and_leaves_nothing_beside(tmp_path):
    save_pretrained(random_model(tiny_config(), seed=1), tmp_path, end_id=96)
    second = random_model(tiny_config(), seed=2)
    save_pretrained(second, tmp_path, end_id=96)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    assert torch.equal(load_pretrained(str(tmp_path)).wte.weight, second.wte.weight)
