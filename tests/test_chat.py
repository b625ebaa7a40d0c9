"""One answer at a time: for a person, for a pipe, for a script."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from src import chat
from src.talk.assistant import Assistant, load_assistant
from src.talk.messages import Message
from src.talk.model_folder import save_model_folder
from tests.conftest import greedy
from tests.model.conftest import random_model, tiny_config

ROOT = Path(__file__).parents[1]
CHATML = (
    "{% for message in messages if message.role != 'system' %}"
    "{{ bos_token + message['role'] + ': ' + message['content'] }}{% endfor %}"
)


@pytest.fixture
def folder(tokenizer, tmp_path) -> Path:
    """A model folder of random weights: it answers, if not well."""
    model = random_model(tiny_config(vocab_size=tokenizer.vocab_size, n_positions=128))
    save_model_folder(tmp_path / "model", model, tokenizer, greedy(16))
    return tmp_path / "model"


@pytest.fixture
def assistant(folder) -> Assistant:
    import torch

    return load_assistant(str(folder), torch.device("cpu"))


@pytest.fixture
def ask(door, folder):
    def run(*arguments: str) -> tuple[int, str, str]:
        given = (f"model_path={folder}", "device=cpu", *arguments)
        return door(
            chat.chat, "chat", *given, free_text=chat.FREE_TEXT, rewrite=chat.check_arguments
        )

    return run


def replies(assistant, prompt: str, **changes) -> str:
    return assistant.reply([Message("user", prompt)], greedy(16, **changes)).read_all()


def test_a_script_gets_one_object_a_line_with_what_it_cost_and_why_it_ended(ask, folder, assistant):
    code, out, err = ask("prompt=Hello\nthere — é", "format=json", "max_new_tokens=5")
    assert (code, err, out.count("\n")) == (0, "", 1)
    facts = json.loads(out)
    expected = assistant.reply([Message("user", "Hello\nthere — é")], greedy(5))
    assert facts.pop("tokens_per_second") > 0
    assert facts == {
        "text": expected.read_all(),
        "prompt": "Hello\nthere — é",
        "model": str(folder),
        "seed": 1,
        "num_prompt_tokens": expected.num_prompt_tokens,
        "num_new_tokens": 5,
        "stop_reason": "length",
    }


def test_several_answers_differ_by_their_seeds_alone(ask, assistant):
    several = ("num_answers=3", "temperature=1", "seed=7", "max_new_tokens=16")
    expected = [replies(assistant, "Hi", temperature=1.0, seed=seed) for seed in (7, 8, 9)]
    assert len(set(expected)) == 3
    code, out, _ = ask("prompt=Hi", "format=json", *several)
    facts = [json.loads(line) for line in out.splitlines()]
    assert [fact["seed"] for fact in facts] == [7, 8, 9]
    assert [fact["text"] for fact in facts] == expected
    code, out, err = ask("prompt=Hi", *several)
    assert (code, out) == (0, "".join(f"{text}\n" for text in expected))
    assert err.splitlines()[1] == "answer 2 of 3, seed=8"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("prompt=hi", "num_answers=3"), "num_answers=3: temperature=0 gives the same answer"),
        (("prompt=hi", "num_answers=0"), "num_answers=0: must be at least 1"),
        (("prompt=hi", "format=xml"), "format=xml: must be one of text, json"),
        (("prompt=bad \udcff",), "the prompt is not valid Unicode: character 4"),
        (("Who are you?",), "Who are you?: arguments are key=value; a question is prompt="),
        (("prompt=hi", "seed=1", "hi"), "hi: arguments are key=value"),
        (("prompt=hi", "system=\udcff"), "message 1 is not valid Unicode"),
        (("prompt=" + "long " * 200,), "leaves no room for an answer"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(arguments, message, ask):
    code, out, err = ask(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_all_of_a_pipe_is_one_prompt(ask, assistant, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hello\nthere\n"))
    expected = replies(assistant, "Hello\nthere\n")
    assert ask("max_new_tokens=16") == (0, expected + "\n", "")


def test_options_of_hydra_are_no_questions():
    for arguments in (["--cfg", "job", "seed=1"], ["-m", "seed=1,2"], ["~stop", "--help"]):
        assert chat.check_arguments(arguments) == arguments


@pytest.mark.parametrize(
    ("stdin", "message"),
    [
        (io.StringIO(""), "the prompt is empty"),
        (None, "the prompt is empty"),  # closed
        (io.TextIOWrapper(io.BytesIO(b"caf\xe9 !"), "utf-8"), "standard input is not UTF-8"),
        (io.StringIO("x" * 10**7), "standard input has more than 262,144 characters"),
    ],
)
def test_a_pipe_that_holds_no_question_is_one_line(stdin, message, ask, monkeypatch):
    monkeypatch.setattr(sys, "stdin", stdin)
    code, out, err = ask()
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


@pytest.mark.parametrize("arguments", [("format=json",), ("num_answers=2", "temperature=1")])
def test_a_conversation_takes_no_settings_of_one_answer(arguments, ask, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stdin", terminal)
    code, _, err = ask(*arguments)
    assert code == 2
    assert "are for one prompt: add prompt=..." in err


def test_a_system_text_stands_before_the_question_where_the_template_takes_one(ask, folder):
    _, plain, _ = ask("prompt=Hi", "format=json")
    _, empty, _ = ask("prompt=Hi", "format=json", "system= ")
    code, kind, _ = ask("prompt=Hi", "format=json", "system=Be kind, (or not)")
    plain, empty, kind = (json.loads(out)["num_prompt_tokens"] for out in (plain, empty, kind))
    assert code == 0
    assert plain == empty < kind

    (folder / "chat_template.jinja").write_text(CHATML)
    code, _, err = ask("prompt=Hi", "system=Be kind")
    assert code == 2
    changed, mistake = err.splitlines()
    assert "chat_template.jinja is not as it was written" in changed
    assert mistake == "error: system: this model's chat template has no place for a system text"


def test_a_model_with_a_template_of_its_own_is_asked_by_it(ask, folder, tokenizer):
    (folder / "chat_template.jinja").write_text(CHATML)
    code, out, _ = ask("prompt=Hi", "format=json")
    assert code == 0
    assert json.loads(out)["num_prompt_tokens"] == 1 + len(tokenizer.encode("user: Hi"))


def test_the_first_token_waits_for_nothing_that_it_does_not_need(folder):
    code = (
        "import atexit, runpy, sys;"
        f"sys.argv = ['chat', 'model_path={folder}', 'prompt=Hi', 'max_new_tokens=1'];"
        "slow = {'prompt_toolkit', 'sympy', 'torch._dynamo', 'lightning', 'jinja2'};"
        "atexit.register(lambda: print(sorted(slow & set(sys.modules)), file=sys.stderr));"
        "runpy.run_module('src.chat', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stderr == "[]\n"


@pytest.mark.slow
def test_a_reader_that_has_enough_stops_it_without_a_word(folder):
    # More answers than pipes hold: it cannot end before its reader.
    arguments = ["prompt=Hi", "num_answers=1000000", "temperature=1", "device=cpu"]
    done = subprocess.Popen(
        [sys.executable, "-m", "src.chat", f"model_path={folder}", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.stdout.read(1)
    done.stdout.close()
    said = done.stderr.read().decode().splitlines()
    assert done.wait() == 141
    assert all(line.startswith("answer ") for line in said)
