"""What a person sees at the doors: one clear line for a mistake, exit code 2, no traceback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from src import chat, export, train
from src.command.cli import CONF, composable
from src.data.tokenizer import train_tokenizer
from src.talk.model_folder import save_model_folder
from tests.conftest import greedy
from tests.model.conftest import random_model, tiny_config
from tests.training.conftest import SMALL, curves

ROOT = Path(__file__).parents[2]


def rows_file(folder: Path, text: str, name: str = "rows.jsonl") -> str:
    path = folder / name
    path.write_text(text)
    return f"data.path={path}"


GOOD = json.dumps({"prompt": "a", "response": "b"}) + "\n"
OWN = ("data=file", "model=tiny", "max_steps=2")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("batch_size=0",), "batch_size=0: must be at least 1"),
        (("optimizer.learning_rate=fast",), "optimizer.learning_rate: Value 'fast'"),
        (("optimizer.learning_rate=-1",), "optimizer.learning_rate=-1.0: must be above 0"),
        (
            ("optimizer.weight_decay=inf",),
            "optimizer.weight_decay=inf: must be 0 or more, and finite",
        ),
        (("seed=1.5",), "seed: Value '1.5'"),
        (("optimiser.learning_rate=1",), "there is no key optimiser.learning_rate"),
        (("hardware=a1000",), "there is no preset hardware=a1000: did you mean hardware=a100?"),
        (("experiment=articel_a100",), "did you mean experiment=article_a100?"),
        (("experiment=gpt2-large_80gb",), "did you mean experiment=gpt2-large?"),
        (("data=sample", "model=tiny", "data.block_size=20000"), "data.block_size=20000"),
        (("data=file", "data.path=nowhere.jsonl"), "data.path=nowhere.jsonl: there is no such"),
        (("data=file",), "data.path is missing"),
        (("trainer.precision=fp8",), "trainer.precision=fp8: must be one of"),
        (("data=sample", "model.tokenizer=./nowhere"), "model.tokenizer=./nowhere"),
        (("data=sample", "model=tiny", "model.pretrained=./no", "model.tokenizer=./no"), "=./no: "),
        (("resume=./nowhere",), "resume=./nowhere: not a run folder"),
        (("model.tokenizer=null",), "model.tokenizer=null would train new tokens"),
        (
            ("data=sample", "model=tiny", "max_steps=9", "optimizer.decay_steps=5"),
            "optimizer.decay_steps=5 is less than the run's 9 steps",
        ),
        (("+brightness=3",), "brightness"),
    ],
)
def test_a_mistake_in_training_is_one_line_and_code_2(arguments, message, door):
    code, out, err = door(train.train, "train", *arguments, rewrite=train.resume_arguments)
    assert code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        (GOOD + "{broken\n", "rows.jsonl", "rows.jsonl, line 2: not valid JSON"),
        ('{"x": "a", "y": "b"}\n', "rows.jsonl", "columns x, y: name your columns"),
        ("", "rows.jsonl", "the dataset is empty"),
        ("[]", "rows.json", "the dataset is empty"),
        ("prompt,response\na,b,c\n", "rows.csv", "rows.csv, line 2: 3 fields"),
        ('{"prompt": "a", "response": ""}\n', "rows.jsonl", "1 empty_response"),
        ("%PDF-1.7", "rows.xlsx", "rows.xlsx: this is a PDF document"),
    ],
)
def test_unusable_rows_are_one_line_and_code_2(text, name, message, door, tmp_path):
    code, _, err = door(train.train, "train", *OWN, rows_file(tmp_path, text, name))
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


def test_an_unreachable_hub_says_what_to_do(door, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    code, _, err = door(train.train, "train", "model=tiny")
    assert code == 2
    assert "alespalla/chatbot_instruction_prompts" in err
    assert "data=sample" in err
    assert err.count("\n") == 1


def test_a_mistake_at_a_real_shell_has_no_traceback():
    done = subprocess.run(
        [sys.executable, "-m", "src.train", "hardware=a1000"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: there is no preset hardware=a1000")
    assert "provider" not in done.stderr  # Hydra's search path follows the presets
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("fill", [lambda: torch.empty(2**50), lambda: bytearray(2**60)])
def test_memory_that_runs_out_is_one_line_with_a_way_out(fill, door):
    code, _, err = door(lambda config: fill() and None, "chat")
    assert code == 2
    assert err.startswith("error: out of memory: ")
    assert "GiB are free: end other programs, or take a smaller model" in err
    assert err.count("\n") == 1


def test_our_own_mistakes_keep_their_traceback(door):
    def job(config):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        door(job, "chat")


@pytest.mark.parametrize(
    "text",
    [
        "What's the best way to fix my kitchen drain? 1",
        "a, b (or c)?",
        "12",
        "${oc.env:HOME} and {braces} [brackets] = equals",
        "back\\slash \"quotes\" 'both'",
        "line one\nline two",
        "",
    ],
)
def test_any_text_reaches_the_job_as_it_was_typed(text, door):
    seen = {}

    def job(config, **text):
        seen.update(text)

    code, _, err = door(job, "chat", f"prompt={text}", "seed=3", free_text=("prompt",))
    assert (code, err, seen) == (0, "", {"prompt": text})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("prompt=hi",), "no trained model"),
        (("prompt=",), "the prompt is empty"),
        (("prompt=hi", "model_path=./nowhere"), "model_path=./nowhere: there is no such folder"),
        (("prompt=hi", "top_p=2.0"), "top_p=2.0: must be in (0, 1]"),
        (("prompt=hi", "device=tpu"), "no trained model"),
    ],
)
def test_a_mistake_in_chat_is_one_line_and_code_2(arguments, message, door):
    code, out, err = door(chat.chat, "chat", *arguments, free_text=("prompt", "model_path"))
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


EXPORT_TEXT = ("model_path", "checkpoint", "output")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no trained model"),
        (("format=onnx",), "format=onnx: must be one of huggingface, gguf"),
        (("format=gguf", "dtype=q4_k"), "dtype=q4_k: must be one of f32, f16, q8_0"),
        (("dtype=f16",), "dtype=f16 is for format=gguf"),
        (("model_path=./a", "checkpoint=./b"), "name one of them"),
        (("model_path=./nowhere",), "model_path=./nowhere: there is no such folder"),
        (("model_path=.",), "model_path=.: no config.json in it"),
        (("checkpoint=./nowhere",), "checkpoint=./nowhere: there is no such file or folder"),
        (("checkpoint=.",), "checkpoint=.: no checkpoint in it"),
    ],
)
def test_a_mistake_in_an_export_is_one_line_and_code_2(arguments, message, door, tmp_path):
    code, out, err = door(export.export, "export", *arguments, free_text=EXPORT_TEXT)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_without_the_gguf_package_an_export_says_what_to_install(door, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    code, _, err = door(export.export, "export", "format=gguf")
    assert code == 2
    assert "format=gguf needs gguf, which is not installed: pip install 'gpt2-chat[gguf]'" in err


@pytest.mark.parametrize(
    ("arguments", "folder", "files", "next_command"),
    [
        (
            (),
            "outputs/export/some_run-huggingface",
            {"model.safetensors", "config.json"},
            "transformers serve",
        ),
        (
            ("format=gguf", "dtype=q8_0"),
            "outputs/export/some_run-q8_0",
            {"model.gguf", "Modelfile"},
            "llama-cli -m",
        ),
        (("format=gguf", "output=a b, (c)"), "a b, (c)", {"model.gguf"}, "'a b, (c)'/Modelfile"),
    ],
)
def test_an_export_says_where_it_is_and_what_to_do_next(
    arguments, folder, files, next_command, door, tmp_path
):
    run = tmp_path / "some run" / "model"
    tokenizer = train_tokenizer(["Hello there 1 2 3"] * 3, 270)
    model = random_model(tiny_config(vocab_size=tokenizer.vocab_size, n_positions=256))
    save_model_folder(run, model, tokenizer, greedy(4))
    given = [f"model_path={run}", *arguments]
    code, out, err = door(export.export, "export", *given, free_text=EXPORT_TEXT)
    assert (code, err) == (0, "")
    first, *rest = out.splitlines()
    assert first.startswith(f"wrote {folder}: {model.num_parameters:,} parameters")
    assert {path.name for path in Path(folder).iterdir()} >= files
    assert next_command in "\n".join(rest)

    code, out, err = door(export.export, "export", *given, free_text=EXPORT_TEXT)
    assert (code, out) == (2, "")
    assert f"output={folder} is there already: name another, or add overwrite=true" in err
    again = [*given, "overwrite=true"]
    assert door(export.export, "export", *again, free_text=EXPORT_TEXT)[0] == 0


@pytest.mark.slow
def test_a_sweep_leaves_a_run_folder_each_and_a_mistake_in_one_does_not_stop_the_rest(
    door, tmp_path
):
    code, _, err = door(
        train.train,
        "train",
        "-m",
        *SMALL,
        "max_steps=2",
        "optimizer.learning_rate=1e-3,2e-3",
        "batch_size=4,0",
        around=train.around,
    )
    folders = sorted(path.parent.name for path in tmp_path.glob("outputs/train/*/*/metrics.json"))
    assert len(folders) == 2, err
    assert "lr1e-3_bs4" in folders
    assert all(curves(path.parent)["val/loss"] for path in tmp_path.rglob("metrics.json"))
    assert err.count("failed: batch_size=0") == 2
    assert code == 2

    # One of them goes on alone as if it had not finished.
    run = next(tmp_path.glob("outputs/train/*/lr1e-3_bs4"))
    (run / "metrics.json").unlink()
    before = (run / ".hydra" / "overrides.yaml").read_text()
    code, _, err = door(
        train.train, "train", "resume=auto", "seed=9", rewrite=train.resume_arguments
    )
    assert code == 2
    assert "that run had seed=1, not 9" in err
    code, _, err = door(train.train, "train", "resume=auto", rewrite=train.resume_arguments)
    assert (code, (run / "metrics.json").exists()) == (0, True), err
    assert (run / ".hydra" / "overrides.yaml").read_text() == before
    assert len(list(tmp_path.glob("outputs/train/*"))) == 1


def test_two_runs_of_the_same_second_have_different_folders():
    from src.files.run_name import run_name

    assert len({run_name() for _ in range(20)}) >= 19  # chance may give two the same digits


def test_nothing_is_written_for_chat(door, tmp_path):
    door(chat.chat, "chat", "prompt=hi", free_text=("prompt",))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "name", ["my question", "réponse (final)", "a,b", "it's", "\\\\'", "${x}", "null"]
)
def test_a_column_has_any_name(name):
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        config = compose(
            "train", ["data=file", *composable([f"data.columns.prompt={name}", "data.path=x"])]
        )
    assert config.data.columns.prompt == name
    assert composable(["data.columns.prompt='as is'"]) == ["++data.columns.prompt='as is'"]
