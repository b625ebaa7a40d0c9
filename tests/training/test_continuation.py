"""A new run goes on from the weights, moments and position of another, or from weights alone."""

import json
import logging
import shutil

import pytest
import torch
from safetensors.torch import load_file

from src.errors import UserError
from src.train import read_settings
from src.training.checkpoints import saved_step
from src.training.optimizer import build_optimizer, build_schedule, go_on_with_schedule
from src.training.origin import find_origin, settings_of
from tests.training.conftest import curves, metrics, train_config
from tests.training.test_resume import LAYOUT, Killed, assert_same_run, kill_at, weights

# One schedule for a run of 12 steps and for one of 24.
SCHEDULE = ("optimizer.decay_steps=24", "optimizer.max_warmup_share=1")
OWN = (*LAYOUT, *SCHEDULE, "trainer.keep_optimizer=true")


def assert_equal_weights(one, two):
    for name, tensor in weights(one).items():
        assert torch.equal(tensor, weights(two)[name]), name


@pytest.mark.parametrize(
    "val_every_n_steps", [5, pytest.param(6, marks=pytest.mark.slow)]
)  # the last step is validated after, or in fit
def test_two_runs_in_a_row_are_one_long_run(val_every_n_steps, quick_run, monkeypatch, caplog):
    layout = (*OWN, f"trainer.val_every_n_steps={val_every_n_steps}")
    long = quick_run(*layout, "max_steps=24", folder="long")
    first = quick_run(*layout, folder="first")
    further = (*layout, f"continue_from={first}", "max_steps=24")
    with caplog.at_level(logging.INFO):
        second = quick_run(*further, folder="second")
    assert f"from {first} at step 12 of 12, with its moments" in caplog.text
    assert_equal_weights(second, long)
    for tag in ("lr", "train/loss", "grad_norm"):
        expected = {step: value for step, value in curves(long)[tag].items() if step > 12}
        assert curves(second)[tag] == expected, tag
    assert min(curves(second)["val/loss"]) == 12  # what it began with
    assert metrics(second)["num_steps"] == 24
    record = json.loads((second / "run.json").read_text())
    assert record["config"]["continue_from"] == str(first)
    assert record["settings"]["continue_from.step"] == 12

    with monkeypatch.context() as patch:  # before it has a checkpoint, and then with one
        kill_at(patch, 14, "on_train_batch_end")
        with pytest.raises(Killed):
            quick_run(*further, folder="killed")
    with monkeypatch.context() as patch:
        kill_at(patch, 21, "on_train_batch_end")
        with pytest.raises(Killed):
            quick_run(*further, "resume=auto", folder="killed")
    shutil.rmtree(first)  # which it no longer needs
    assert_same_run(quick_run(*further, "resume=auto", folder="killed"), second)


def test_without_moments_the_weights_alone_are_taken(quick_run, caplog):
    first = quick_run(*LAYOUT, "max_steps=6", "trainer.keep_optimizer=false", folder="first")
    for number, name in enumerate((first, first / "model")):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            run = quick_run(*LAYOUT, f"continue_from={name}", "max_steps=3", folder=f"more{number}")
        assert f"from {name}, from its weights alone: " in caplog.text
        assert curves(run)["val/loss"][0] == pytest.approx(metrics(first)["best_val/loss"])
        assert metrics(run)["num_steps"] == 3
        settings = json.loads((run / "run.json").read_text())["settings"]
        assert settings["continue_from.moments"] is False


@pytest.fixture
def first(quick_run):
    return quick_run(*OWN, "max_steps=6", folder="first")


def refused(quick_run, first, words, *changes):
    with pytest.raises(UserError, match=words) as error:
        quick_run(*OWN, f"continue_from={first}", "max_steps=9", *changes, folder="other")
    assert "\n" not in str(error.value)
    assert not (first.parent / "other" / "run.json").exists()


def test_what_it_cannot_go_on_from_is_refused_in_one_line(first, quick_run, tmp_path, caplog):
    refused(quick_run, first, r"its model is another: .* 96 there and 192 here", "model.n_embd=64")
    refused(quick_run, first, r"its model is another: h.1.* is missing there", "model.n_layer=2")
    refused(quick_run, first, r"n_head is 2 there and 4 here", "model.n_head=4")
    refused(quick_run, first, r"its model is another: .*lora_A.* is missing there", "lora.rank=2")
    others = tmp_path / "others.jsonl"
    others.write_text('{"prompt": "Zur Zeit?", "response": "Zurzeit ja, zur Zeit."}\n' * 40)
    words = r"tokenizer is another: .*set model.tokenizer="
    refused(quick_run, first, words, f"data.path={others}")
    refused(quick_run, first, r"is at step 6, and this run ends at step 6", "max_steps=6")
    refused(quick_run, tmp_path / "none", "there is no such folder")
    (tmp_path / "empty").mkdir()
    refused(quick_run, tmp_path / "empty", "holds neither a run")
    refused(quick_run, first / "checkpoints" / "last.ckpt", "is a file: name the folder of a run")
    last, previous = (first / "checkpoints" / f"{name}.ckpt" for name in ("last", "previous"))
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    assert find_origin(str(first)).checkpoint == previous
    assert "looking for the one before it" in caplog.text
    previous.write_bytes(b"")
    refused(quick_run, first, r"no whole checkpoint .*continue_from=.*/model")


class Trap:
    def __reduce__(self):
        return print, ("sprung",)


def test_a_strangers_checkpoint_runs_no_code(tmp_path, capsys):
    (tmp_path / "checkpoints").mkdir()
    record = {"settings": {}, "machine": {}, "config": {"seed": 1}}
    (tmp_path / "run.json").write_text(json.dumps(record))
    content = {"state_dict": {}, "global_step": 1, "trap": Trap()}
    torch.save(content, tmp_path / "checkpoints" / "last.ckpt")
    with pytest.raises(UserError, match="is no checkpoint of a training run"):
        find_origin(str(tmp_path))
    assert "sprung" not in capsys.readouterr().out
    (tmp_path / "run.json").write_text(json.dumps(record | {"config": {"hydra": {}}}))
    with pytest.raises(UserError, match="there is no setting 'hydra'"):
        settings_of(str(tmp_path))


def test_a_run_that_went_on_meanwhile_is_not_gone_on_from(first, quick_run, monkeypatch):
    further = (*OWN, f"continue_from={first}", "max_steps=24")
    with monkeypatch.context() as patch:
        kill_at(patch, 7, "on_train_batch_end")
        with pytest.raises(Killed):
            quick_run(*further, folder="second")
    last = first / "checkpoints" / "last.ckpt"
    (first / "checkpoints" / "previous.ckpt").replace(last)  # another step
    assert saved_step(last) == 5
    with pytest.raises(UserError, match="what it goes on from is not what it was"):
        quick_run(*further, "resume=auto", folder="second")


def test_its_settings_are_those_of_the_other_run_but_for_what_is_set(tmp_path):
    from hydra import compose, initialize_config_dir

    from src.command.cli import CONF

    values = {"seed": 7, "max_steps": 12, "data": {"source": "sample"}, "batch_size": 8}
    record = {"settings": {}, "machine": {}, "config": values | {"continue_from": "an older one"}}
    (tmp_path / "run.json").write_text(json.dumps(record))

    def read(*overrides):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            given = [f"continue_from={tmp_path}", *overrides]
            return read_settings(compose("train", overrides=given), given)[0]

    config = read("max_steps=24", "optimizer.learning_rate=1e-4")
    assert (config.seed, config.max_steps, config.data.source) == (7, 24, "sample")
    assert config.optimizer.learning_rate == 1e-4
    assert config.continue_from == str(tmp_path)
    assert read("max_epochs=6").max_steps is None  # or the other run's steps would win
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_text("{}")
    assert settings_of(str(bare)) == {"model": {"pretrained": str(bare), "tokenizer": str(bare)}}
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    assert settings_of(str(model))["seed"] == 7  # those of the run that wrote it


@pytest.mark.parametrize("from_zero", [False, True])
def test_the_next_step_has_the_rate_that_the_new_schedule_says(from_zero):
    def built(**changes):
        given = [f"optimizer.{key}={value}" for key, value in changes.items()]
        zero = f"optimizer.warmup_from_zero={str(from_zero).lower()}"
        config = train_config("experiment=quickstart", zero, *given).optimizer
        optimizer = build_optimizer(torch.nn.Linear(2, 2), config, fused=False)
        return config, optimizer, build_schedule(optimizer, config, 40)

    config, optimizer, schedule = built(learning_rate=1e-3, weight_decay=0.5)
    rates = []
    for _ in range(40):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    _, old, old_schedule = built(learning_rate=7.0, weight_decay=0.0)
    optimizer.load_state_dict(old.state_dict())
    schedule.load_state_dict(old_schedule.state_dict())
    go_on_with_schedule(optimizer, schedule, config, 25)
    found = []
    for _ in range(15):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert found == pytest.approx(rates[25:])
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0.0]


@pytest.mark.slow
def test_adapters_go_on_beside_the_same_weights_only(quick_run, tmp_path, gpt2_tokenizer):
    pytest.importorskip("peft")
    from src.model.pretrained import save_pretrained
    from tests.model.conftest import random_model, tiny_config

    def base(name, seed):
        folder = tmp_path / name
        folder.mkdir()
        shape = tiny_config(vocab_size=50257, n_layer=1, n_embd=16, n_head=2)
        save_pretrained(random_model(shape, seed=seed), folder, end_id=50256)
        gpt2_tokenizer.save(folder)
        return f"model.pretrained={folder}", f"model.tokenizer={folder}"

    lora = (*OWN, "lora.rank=2", "data.block_size=32")
    first = quick_run(*lora, *base("one", 0), "max_steps=3", folder="first")
    further = (*lora, f"continue_from={first}", "max_steps=6")
    second = quick_run(*further, *base("copy", 0), folder="second")
    assert metrics(second)["num_steps"] == 6
    assert min(curves(second)["lr"]) == 4
    with pytest.raises(UserError, match=r"that run had lora\.alpha=32"):
        quick_run(*further, "lora.alpha=8", *base("three", 0), folder="third")
    with pytest.raises(UserError, match="the weights that LoRA leaves alone are others here"):
        quick_run(*further, *base("two", 1), folder="third")
    alone = (*lora, f"continue_from={first / 'model'}", "max_steps=3")
    fourth = quick_run(*alone, *base("again", 0), folder="fourth")
    taken = load_file(first / "model" / "model.safetensors")["transformer.wte.weight"]
    found = load_file(fourth / "model" / "model.safetensors")["transformer.wte.weight"]
    assert torch.equal(taken, found)
