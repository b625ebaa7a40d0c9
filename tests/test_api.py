"""Three calls do what the doors do: with conf's defaults, and one line for a mistake."""

import json
import logging
import os
import pydoc
import shutil
import signal
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from src import api
from src.api import Figures, load, open_run, train
from src.command.arguments import as_arguments
from src.command.overrides import CONF
from src.errors import UserError
from src.talk.messages import Message
from src.training.config import TrainConfig

TINY = {
    "experiment": "quickstart",
    "data": {"max_rows": 60, "block_size": 64},
    "model": {"n_layer": 1, "n_embd": 32, "n_head": 2, "vocab_size": 300},
    "generation.max_new_tokens": 4,
    "exact_match": False,
    "batch_size": 8,
    "micro_batch_size": 8,
    "max_steps": 2,
    "optimizer": {"warmup_steps": 1, "learning_rate": 2e-3},
    "trainer.val_every_n_steps": 5,
    "sample_prompts": [],
}


@pytest.fixture(scope="module")
def figures(tmp_path_factory) -> Figures:
    """Of a small run, trained by the call in a folder of its own."""
    folder = tmp_path_factory.mktemp("api")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        trained = train(**TINY, name="mine")
    trained.folder = folder / trained.folder
    return trained


def test_train_returns_the_figures_of_a_run_folder(figures):
    assert figures == json.loads((figures.folder / "metrics.json").read_text("utf-8"))
    assert figures["num_steps"] == 2
    assert "_mine_" in figures.folder.name
    assert {path.name for path in figures.folder.iterdir()} >= {".hydra", "train.log", "run.json"}
    assert "talk to it" in (figures.folder / "train.log").read_text("utf-8")
    settings = open_run(figures.folder).settings
    assert settings["optimizer.learning_rate"] == 2e-3
    assert settings["model.n_layer"] == 1
    record = json.loads((figures.folder / "run.json").read_text("utf-8"))
    assert record["command"].startswith("python -m src.train ")


def test_a_reply_is_computed_with_the_threads_that_were_asked_for(figures, monkeypatch):
    before = torch.get_num_threads()
    seen = []
    model = load(figures.folder, threads=before + 1)
    decoded = model.assistant.reply

    def reply(*arguments):
        found = decoded(*arguments)
        found._pieces = (seen.append(torch.get_num_threads()) or piece for piece in ["a", "b"])
        return found

    monkeypatch.setattr(model.assistant, "reply", reply)
    assert model.reply("Hello") == "ab"
    assert seen == [before + 1] * 2
    assert torch.get_num_threads() == before
    assert load(figures.folder).threads.most >= 1
    with pytest.raises(UserError, match=r"threads=0: must be in \[1, 1024\], or auto"):
        load(figures.folder, threads=0)


def test_a_run_is_opened_with_all_that_it_has(figures, tmp_path):
    run = open_run(figures.folder)
    assert run.metrics == figures
    assert run.status.state == "finished"
    steps, values = run.curves["val/loss"]
    assert steps == [0, 2]
    assert values[-1] == pytest.approx(figures["val/loss"])
    assert isinstance(run.config, TrainConfig)
    older_folder = tmp_path / "older"  # as an older version left it
    (older_folder / "tensorboard").mkdir(parents=True)
    for name in ("run.json", "metrics.json"):
        shutil.copy(figures.folder / name, older_folder)
    for path in figures.folder.glob("events.out.tfevents.*"):
        shutil.copy(path, older_folder / "tensorboard")
    older = open_run(older_folder).curves
    assert older["val/loss"].steps == steps
    assert older["val/loss"].values == pytest.approx(values)


def test_its_rows_and_its_model_are_those_of_the_run(figures, monkeypatch):
    monkeypatch.chdir(figures.folder.parents[2])
    run = open_run()  # the newest
    assert run.folder.resolve() == figures.folder.resolve()
    checksum = run.data.splits["train"].packing.checksum
    assert checksum == run.settings["packing"]
    assert run.data.key == run.settings["corpus"]
    reply = run.model.reply("Hello", max_new_tokens=3)
    assert load(run.folder).reply("Hello", max_new_tokens=3) == reply
    assert load(str(run.folder / "model")).reply("Hello", max_new_tokens=3) == reply
    assert load().name.endswith("model")


def test_a_model_answers_texts_and_conversations(figures):
    model = load(figures.folder)
    assert repr(model).startswith("<")
    asked = [{"role": "user", "content": "Hello"}]
    reply = model.reply(asked, max_new_tokens=3)
    assert reply == model.reply("Hello", max_new_tokens=3)
    assert reply == model.reply([Message("user", "Hello")], max_new_tokens=3)
    assert model.replies(["Hello", asked], max_new_tokens=3) == [reply, reply]
    assert "".join(model.stream("Hello", max_new_tokens=3)) == reply
    assert isinstance(model.reply("Hello", system="Be brief.", max_new_tokens=3), str)
    sampled = load(figures.folder, generation="sampling").generation
    assert sampled.temperature > 0


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda model: model.reply(""), "empty"),
        (lambda model: model.reply([]), "question"),
        (lambda model: model.reply([{"role": "wizard", "content": "x"}]), "role"),
        (lambda model: model.reply({"role": "user", "content": "x"}), "a list of messages, not"),
        (lambda model: model.reply(None), "a list of messages, not None"),
        (lambda model: model.replies("Who?"), "a list of questions, not one: 'Who[?]'"),
        (lambda model: model.reply("x", temperatur=1), "did you mean temperature?"),
        (lambda model: model.reply("x", top_p=2), "top_p=2"),
        (lambda model: model.reply("x", temperature="hot"), "temperature='hot'"),
    ],
)
def test_a_mistake_in_a_question_is_one_line(figures, call, said):
    with pytest.raises(UserError, match=said) as refused:
        call(load(figures.folder))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"batch_size": 0}, "batch_size=0: must be at least 1"),
        ({"learning_rate": 1e-3}, "learning_rate"),
        ({"optimizer": {"learning_rate": "fast"}}, "optimizer.learning_rate"),
        ({"experiment": "quickstrat"}, "quickstart"),
        ({"name": "a/b"}, "it holds /"),
        ({"sweep": "lr_batch_size"}, "a sweep is started at a shell"),
        ({"resume": "nowhere"}, "not a run folder"),
        ({"data": object()}, "a setting is a text"),
        ({"data": "file", "data.path": "nowhere.jsonl", "model": "tiny"}, "nowhere.jsonl"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_folder(settings, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=said) as refused:
        train(**settings)
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("folder", ["nowhere", "."])
def test_a_folder_without_a_run_is_refused(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="not a run folder"):
        open_run(folder)
    with pytest.raises(UserError, match="no finished run"):
        open_run()
    with pytest.raises(UserError):
        load(folder)
    with pytest.raises(UserError, match="no trained model"):
        load()


def test_a_strangers_record_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    target = {"_target_": "os.system", "command": "touch CANARY"}
    content = {
        "settings": {},
        "machine": {},
        "config": {
            "data": {"path": target, "source": "file"},
            "sample_prompts": ["${oc.env:HOME}"],
        },
    }
    (tmp_path / "run.json").write_text(json.dumps(content), "utf-8")
    with pytest.raises(UserError):
        open_run(tmp_path)
    assert not (tmp_path / "CANARY").exists()


def test_the_process_is_as_it_was(figures, tmp_path, monkeypatch):
    """Called again and again in a notebook, beside a person's own use of Hydra."""
    monkeypatch.chdir(tmp_path)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        before = GlobalHydra.instance().hydra
        logger = logging.getLogger("src")
        handlers = list(logger.handlers)
        handler = signal.getsignal(signal.SIGINT)
        for _ in range(2):
            assert train(resume=figures.folder) == figures
            with pytest.raises(UserError):
                train(data="file", model="tiny", **{"data.path": "nowhere.jsonl"})
        assert GlobalHydra.instance().hydra is before
        assert compose("chat").num_answers == 1
        assert logger.handlers == handlers
        assert logger.propagate
        assert signal.getsignal(signal.SIGINT) is handler


def test_a_run_that_cannot_go_on_is_nobodys_afterwards(figures, tmp_path, monkeypatch):
    """A notebook lives on: it may not keep the lock."""
    copy = tmp_path / "run"
    shutil.copytree(figures.folder, copy)
    (copy / "metrics.json").unlink()
    for settings in ({"batch_size": 0}, {"batch_size": 4}):
        with pytest.raises(UserError, match="batch_size"):
            train(resume=copy, **settings)
        assert not (copy / "run.lock").exists()


@pytest.mark.parametrize(
    ("place", "has_begun"),
    [
        ("src.api.start_run", False),
        ("src.training.start.Run", True),  # its record is written
        ("src.training.checkpoints.Checkpoints.on_train_batch_end", True),
    ],
)
def test_ctrl_c_stops_in_good_order_and_says_how_to_go_on(
    place, has_begun, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    original = pydoc.locate(place)

    def interrupted(*arguments, **options):
        monkeypatch.setattr(place, original)
        os.kill(os.getpid(), signal.SIGINT)
        return original(*arguments, **options)

    monkeypatch.setattr(place, interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(**TINY | {"max_steps": 50})
    if not has_begun:
        assert not Path("outputs/train").exists()
        return
    (record,) = Path("outputs/train").glob("*/run.json")
    assert f"go on with: train(resume='{record.parent}')" in capsys.readouterr().err
    assert train(resume=record.parent)["num_steps"] == 50


@pytest.mark.parametrize(
    ("settings", "arguments"),
    [
        ({"experiment": "quickstart", "max_steps": 60}, ["experiment=quickstart", "max_steps=60"]),
        ({"a": None, "b": True, "c": 1e-3}, ["a=null", "b=true", "c=0.001"]),
        ({"optimizer": {"learning_rate": 1e-3}}, ["optimizer.learning_rate=0.001"]),
        ({"optimizer.betas": (0.9, 0.95)}, ["optimizer.betas=[0.9, 0.95]"]),
        ({"a": "true", "b": "12", "c": "x, y"}, ['a="true"', 'b="12"', 'c="x, y"']),
        ({"data": {"path": Path("a b.jsonl")}}, ["data.path=a b.jsonl"]),
        ({"a": [{"path": "x", "weight": 2}]}, ['a=[{path: "x", weight: 2}]']),
    ],
)
def test_values_of_python_are_written_as_settings(settings, arguments):
    assert as_arguments(settings) == arguments


def test_values_of_numpy_and_torch_are_numbers():
    import numpy as np
    import torch

    settings = {"a": np.float32(0.5), "b": np.int64(3), "c": torch.tensor(2), "d": np.bool_(True)}
    assert as_arguments(settings) == ["a=0.5", "b=3", "c=2", "d=true"]


def test_any_text_is_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    texts = ["${oc.env:HOME}", "a,b", "[x", "'", '"', "null", "true", "a=b", "", "\\", "ü 🙂"]
    config = api._composed("train", as_arguments({"sample_prompts": texts}))
    assert list(config.sample_prompts) == texts


def test_columns_and_sources_are_given_as_objects():
    settings = {"data": {"columns": {"prompt": "my, question"}}, "data.validation_split": "v.jsonl"}
    arguments = api.readable(api.composable(as_arguments(settings)))
    config = api._composed("train", ["data=file", *arguments])
    assert config.data.columns == {"prompt": "my, question"}


def test_the_calls_are_exported_by_the_installed_package():
    import gpt2_chat

    assert gpt2_chat.train is train
    assert gpt2_chat.load is load
    assert gpt2_chat.open_run is open_run
    with pytest.raises(AttributeError, match="tain"):
        _ = gpt2_chat.tain
