"""The main job, end to end, at a real shell: the quickstart, cut to a minute or two."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import transformers

from src.data.sample import sample_rows
from src.talk.assistant import Assistant
from src.talk.messages import Message
from src.talk.model_folder import load_model_folder
from tests.conftest import greedy
from tests.training.conftest import curves

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
GREEDY = greedy(48)


def held_out_questions() -> list[list[Message]]:
    """The test conversations up to their last replies."""
    return [
        [Message(message["role"], message["content"]) for message in row["messages"][:-1]]
        for row in sample_rows()
        if row["split"] == "test"
    ]


def ask(run: Path, *arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "src.chat", f"model_path={run / 'model'}", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        **options,
    )


def test_a_minute_teaches_most_answers_and_every_figure_is_written(quickstart_run):
    """A part of the steps: the full quickstart reaches more."""
    figures = json.loads((quickstart_run / "metrics.json").read_text())
    assert figures["test/accuracy"] > 0.95
    assert figures["test/loss"] < curves(quickstart_run)["val/loss"][0] / 5
    assert 0.6 < figures["exact_match"] <= 1
    assert figures["exact_match_nearest_neighbour"] < 0.2
    labels = {key.removeprefix("exact_match/") for key in figures if "exact_match/" in key}
    assert labels >= {"turn_1", "turn_2", "turn_3", "system", "follow_up", "capitals"}
    assert len(labels) >= 30
    assert figures["utilisation"] > 0.98


def test_the_run_folder_holds_what_the_readme_says(quickstart_run):
    assert {path.name for path in quickstart_run.iterdir()} >= {
        ".hydra",
        "train.log",
        "history.csv",
        "checkpoints",
        "model",
        "metrics.json",
        "run.json",
        "before.json",
    }
    log = (quickstart_run / "train.log").read_text()
    for word in ("rows", "blocks", "warmup", "parameters", "run folder", "talk to it"):
        assert word in log


def test_tensorboard_has_every_curve_and_the_replies(quickstart_run):
    scalars = curves(quickstart_run)
    for tag in ("train/loss", "train/accuracy", "lr", "grad_norm", "perf/tokens_per_second"):
        assert len(scalars[tag]) > 10, tag
    for tag in ("val/loss", "val/accuracy", "val/perplexity"):
        assert 0 in scalars[tag], tag  # what the untrained model knows
        assert len(scalars[tag]) >= 3, tag
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(quickstart_run))
    events.Reload()
    replies = events.Tensors("sample_replies/text_summary")
    assert replies[0].step == 0
    assert b"What is 3 + 4?" in replies[-1].tensor_proto.string_val[0]


def test_greedy_text_equals_hugging_faces_generate_token_for_token(quickstart_run):
    folder = quickstart_run / "model"
    questions = held_out_questions()[::41][:50]
    assert len(questions) == 50
    ours = Assistant(*load_model_folder(str(folder))).replies(questions, GREEDY)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for question, reply in zip(questions, ours, strict=True):
        ids = tokenizer.apply_chat_template(
            [asdict(message) for message in question], return_tensors="pt", return_dict=True
        )
        out = model.generate(**ids, max_new_tokens=48, do_sample=False)
        new = out[0, ids["input_ids"].shape[1] :]
        assert tokenizer.decode(new, skip_special_tokens=True).lstrip() == reply, question
    assert len(set(ours)) > 25  # they are answers, not one text fifty times


def test_fp16_bf16_and_int8_answer_as_fp32_does(quickstart_run):
    assistant = Assistant(*load_model_folder(str(quickstart_run / "model")))
    questions = held_out_questions()[::3]
    expected = assistant.replies(questions, GREEDY)
    for weights, least in (("fp16", 0.995), ("bf16", 0.95), ("int8", 0.95)):
        replies = assistant.replies(questions, greedy(48, weights=weights))
        same = sum(a == b for a, b in zip(replies, expected, strict=True))
        assert same / len(questions) >= least, weights


def test_the_answer_and_nothing_else_is_on_standard_output(quickstart_run):
    expected = Assistant(*load_model_folder(str(quickstart_run / "model"))).replies(
        ["Who are you?"], GREEDY
    )[0]
    given = ask(quickstart_run, "prompt=Who are you?")
    piped = ask(quickstart_run, input="Who are you?\n")
    for done in (given, piped):
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == expected + "\n"


def test_any_prompt_gets_an_answer_at_the_shell(quickstart_run):
    done = ask(quickstart_run, "prompt=What's best, a (or b)? <|endoftext|> ${oc.env:HOME} = 1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()


def core_seconds(start: Callable[[], subprocess.CompletedProcess]) -> float:
    """Return what a process uses of the cores; the clock would count what else they do."""
    before = os.times()
    assert start().returncode == 0
    after = os.times()
    used = (after.children_user, after.children_system)
    return sum(used) - before.children_user - before.children_system


def test_the_whole_answer_takes_less_than_three_seconds_of_one_core(quickstart_run):
    """So its first token comes within three.

    Where others slow a core down, which share its caches or the core itself, all takes longer:
    the import of torch alone shows by how much.
    """
    one = os.environ | {"OMP_NUM_THREADS": "1"}
    torch_alone = [sys.executable, "-c", "import torch"]
    answers, imports = [], []
    for _ in range(3):
        answers.append(core_seconds(lambda: ask(quickstart_run, "prompt=Who are you?", env=one)))
        imports.append(core_seconds(lambda: subprocess.run(torch_alone, env=one, check=False)))
    assert min(answers) < max(3, 2.2 * min(imports))


def test_chat_finds_the_newest_run_and_writes_nothing(quickstart_run, tmp_path):
    run = tmp_path / "outputs" / "train" / "one"
    shutil.copytree(quickstart_run / "model", run / "model")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "src.chat", "prompt=Who are you?", "max_new_tokens=3"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outputs"]
