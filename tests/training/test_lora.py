"""LoRA: only adapters learn, the model folder is a plain GPT-2, a resumed run ends the same."""

import sys

import pytest
import torch

from src.errors import UserError
from src.model.decoding_weights import DecodingWeights
from src.model.pretrained import load_pretrained, save_pretrained
from src.talk.assistant import Assistant
from src.training import module as module_of_run
from src.training.config import LoRAConfig
from src.training.lora import add_adapters, has_adapters, merged
from tests.model.conftest import random_model, tiny_config
from tests.training.conftest import metrics
from tests.training.test_resume import LAYOUT, Killed, assert_same_run, kill_at, weights

IDS = torch.arange(40)[None] % 97
LORA = ("lora.rank=4", "lora.dropout=0.1", "optimizer.learning_rate=1e-2")


@pytest.fixture
def adapted():
    pytest.importorskip("peft")
    model = random_model(tiny_config())
    add_adapters(model, LoRAConfig(rank=4, alpha=8.0, dropout=0.0))
    return model


def test_it_starts_from_the_model_as_it_was_and_only_adapters_learn(adapted):
    plain = random_model(tiny_config())
    assert has_adapters(adapted)
    assert not has_adapters(plain)
    assert torch.equal(adapted(IDS), plain(IDS))
    learning = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert len(learning) == 2 * 4 * 3  # A and B of four matrices in three blocks
    assert all(".lora_" in name for name in learning)


def test_merged_is_the_same_function_as_a_plain_model_and_leaves_the_other_alone(adapted):
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    before = {name: tensor.clone() for name, tensor in adapted.state_dict().items()}
    plain = merged(adapted)
    assert set(plain.state_dict()) == set(random_model(tiny_config()).state_dict())
    assert not torch.allclose(plain(IDS), random_model(tiny_config())(IDS), atol=0.1)
    torch.testing.assert_close(plain(IDS), adapted(IDS), atol=1e-3, rtol=1e-3)
    assert all(torch.equal(before[name], t) for name, t in adapted.state_dict().items())
    assert merged(plain) is plain


@pytest.fixture
def base(tmp_path, tokenizer):
    pytest.importorskip("peft")
    folder = tmp_path / "base"
    folder.mkdir()
    write_base(folder, tokenizer)
    tokenizer.save(folder)
    return folder


def write_base(folder, tokenizer, seed=0):
    config = tiny_config(vocab_size=tokenizer.vocab_size, n_layer=1, n_embd=16, n_head=2)
    save_pretrained(random_model(config, seed=seed), folder, tokenizer.end_id)


def test_a_run_leaves_a_merged_folder_and_small_checkpoints(small_run, base, caplog):
    with caplog.at_level("INFO"):
        run = small_run(f"model.pretrained={base}", f"model.tokenizer={base}", *LORA)
    before, after = (load_pretrained(str(f)).state_dict() for f in (base, run / "model"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    matrices = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    assert changed == {f"h.0.{matrix}.weight" for matrix in matrices}
    assert metrics(run)["best_val/loss"] == pytest.approx(min_val_loss(run), rel=1e-5)
    assert metrics(run)["num_parameters"] == load_pretrained(str(base)).num_parameters
    assert not any(name.startswith("model.wte") for name in weights(run))
    assert "1,024 in adapters of rank 4 learn" in caplog.text


def test_the_replies_at_a_validation_are_those_of_the_model_as_it_is_then(
    small_run, base, monkeypatch
):
    """What answers at the end is what is saved, and is not what answered before."""
    asked, made = [], []
    original, merge = Assistant.replies, module_of_run.merged

    def replies(self, prompts, generation, **options):
        if "max_seconds" in options:  # the sample prompts, at a validation
            asked.append({n: t.clone() for n, t in self.model.state_dict().items()})
        return original(self, prompts, generation, **options)

    monkeypatch.setattr(Assistant, "replies", replies)
    monkeypatch.setattr(module_of_run, "merged", lambda m: made.append(1) or merge(m))
    run = small_run(f"model.pretrained={base}", f"model.tokenizer={base}", *LORA, "max_steps=5")
    saved = load_pretrained(str(run / "model")).state_dict()
    assert len(asked) == len(made) == 2, "merged once a validation: before training and at step 5"
    matrix = "h.0.attn.c_attn.weight"
    assert torch.equal(asked[-1][matrix], saved[matrix])
    assert not torch.equal(asked[-1][matrix], asked[0][matrix])


def test_what_reads_weights_raw_refuses_adapters(adapted, tmp_path):
    for read in (
        lambda: DecodingWeights(adapted, "fp32"),
        lambda: save_pretrained(adapted, tmp_path, 0),
    ):
        with pytest.raises(AssertionError, match=r"h\.0\.attn\.c_attn is a Linear: merge it"):
            read()
    DecodingWeights(merged(adapted), "fp32")


def min_val_loss(run):
    from tests.training.conftest import curves

    return min(curves(run)["val/loss"].values())


def test_a_killed_run_goes_on_to_the_same_weights(small_run, monkeypatch):
    pytest.importorskip("peft")
    whole = small_run(*LAYOUT, *LORA, folder="whole")
    with monkeypatch.context() as patch:
        kill_at(patch, 8, "on_train_batch_end")
        with pytest.raises(Killed):
            small_run(*LAYOUT, *LORA, folder="killed")
    torch.manual_seed(999)
    assert_same_run(small_run(*LAYOUT, *LORA, "resume=auto", folder="killed"), whole)


def test_adapters_are_not_put_beside_other_weights(small_run, base, tokenizer):
    own = (f"model.pretrained={base}", f"model.tokenizer={base}", *LORA, "max_steps=4")
    run = small_run(*own, "trainer.val_every_n_steps=4")
    (run / "metrics.json").unlink()
    write_base(base, tokenizer, seed=1)
    with pytest.raises(UserError, match="weights that LoRA leaves alone are not what they were"):
        small_run(*own, "trainer.val_every_n_steps=4", "resume=auto")


def test_without_peft_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"pip install 'gpt2-chat\[lora\]'"):
        add_adapters(random_model(tiny_config()), LoRAConfig(4, 8.0, 0.0))
