import importlib
import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from src.data.comparison import Context
from src.data.sample.demonstrations import demonstration_rows
from src.data.tokenizer import train_tokenizer
from src.evaluation.judges import choose_judge
from src.evaluation.rows import EvaluationRow
from src.rank import rank
from src.ranking import draws
from src.ranking.draws import Drawn, Prompt, messages_of
from src.ranking.labellers import is_known
from src.talk.assistant import Assistant
from src.talk.messages import Message
from src.talk.model_folder import save_model_folder
from tests.conftest import greedy
from tests.model.conftest import random_model, tiny_config

FULL = greedy(8, temperature=1.0, seed=3)
CONTEXTS = [
    (Context((("Hello", "I am fine."),), f"how are you {i}?", "Be brief." * (i % 2)), f"f{i}")
    for i in range(7)
]


@pytest.fixture(scope="module")
def assistant() -> Assistant:
    texts = [row["prompt"] + " " + row["response"] for row in demonstration_rows()[::50]]
    tokenizer = train_tokenizer(texts, 300)
    config = tiny_config(vocab_size=tokenizer.vocab_size, n_positions=128)
    return Assistant(random_model(config), tokenizer)


def draw(assistant: Assistant, contexts, *arguments) -> Iterator[Drawn]:
    """Draw replies to contexts as the assistant's template writes them."""
    prompts = [
        Prompt(context, family, assistant.template(messages_of(context)))
        for context, family in contexts
    ]
    return draws.draw(assistant, prompts, *arguments)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_a_reply_is_the_same_whatever_is_drawn_beside_it(assistant, batch_size):
    whole = list(draw(assistant, CONTEXTS, 4, FULL, 10))
    assert list(draw(assistant, CONTEXTS, 4, FULL, batch_size)) == whole
    assert list(draw(assistant, CONTEXTS[::-1], 4, FULL, batch_size)) == whole[::-1]
    fewer = list(draw(assistant, CONTEXTS[2:4], 2, FULL, batch_size))
    assert [item.replies for item in fewer] == [item.replies[:2] for item in whole[2:4]]


def test_replies_are_several_and_another_seed_draws_others(assistant):
    whole = list(draw(assistant, CONTEXTS, 4, FULL, 64))
    assert [(item.context, item.family) for item in whole] == CONTEXTS
    assert len({reply for item in whole for reply in item.replies}) > 20
    others = list(draw(assistant, CONTEXTS, 4, replace(FULL, seed=4), 64))
    assert all(one.replies != other.replies for one, other in zip(whole, others, strict=True))


def test_a_reply_says_whether_it_ended(assistant):
    """Each token of the vocabulary is about as likely, so few end before the limit."""
    ends = frozenset(range(0, assistant.tokenizer.vocab_size, 8))
    other = Assistant(assistant.model, assistant.tokenizer, end_ids=ends)
    ended = [e for item in draw(other, CONTEXTS, 8, FULL, 16) for e in item.ended]
    assert 0.3 < sum(ended) / len(ended) < 0.95
    none = Assistant(assistant.model, assistant.tokenizer, end_ids=[])
    assert not any(e for item in draw(none, CONTEXTS, 2, FULL, 16) for e in item.ended)


def test_nothing_is_drawn_for_no_prompt(assistant):
    assert list(draw(assistant, [], 4, FULL, 16)) == []


def test_a_context_is_what_the_model_reads():
    assert messages_of(CONTEXTS[1][0]) == [
        Message("system", "Be brief."),
        Message("user", "Hello"),
        Message("assistant", "I am fine."),
        Message("user", "how are you 1?"),
    ]


@pytest.fixture
def model_path(assistant, tmp_path) -> str:
    save_model_folder(tmp_path / "model", assistant.model, assistant.tokenizer, FULL)
    return str(tmp_path / "model")


def test_the_door_ranks_by_the_known_labeller_and_goes_on(door, model_path, tmp_path):
    output = tmp_path / "found" / "a.jsonl"
    arguments = [f"model_path={model_path}", f"output={output}", "labeller=sample", "num_replies=3"]
    arguments += ["max_new_tokens=8", "device=cpu", "prompts=validation"]
    code, _, errors = door(rank, "rank", *arguments, "max_prompts=12")
    assert code == 0
    assert "12 ranked; 12 in" in errors
    assert "asked twice" in errors
    first = output.read_text()
    held_out = {row["prompt"] for row in demonstration_rows() if row["split"] == "validation"}
    rows = [json.loads(line) for line in first.splitlines()]
    assert {row["prompt"] for row in rows} <= held_out
    assert {len(row["replies"]) for row in rows} == {3}
    code, _, errors = door(rank, "rank", *arguments, "max_prompts=20", "batch_size=2")
    assert code == 0
    assert "12 ranked before" in errors
    whole = output.read_text()
    assert whole.startswith(first)
    notes = output.with_name(".a.notes.jsonl")
    first = json.loads(notes.read_text().splitlines()[0])
    assert (first["from"]["labeller"], first["from"]["noise"]) == ("sample", 1.0)
    output.unlink()
    notes.unlink()
    door(rank, "rank", *arguments, "max_prompts=20")
    assert output.read_text() == whole


def test_replies_are_drawn_with_as_many_threads_as_asked(door, model_path, tmp_path, monkeypatch):
    (tmp_path / "threads_seen.py").write_text(
        "import torch\nseen = set()\ndef score(prompt, replies):\n"
        "    seen.add(torch.get_num_threads())\n    return [len(reply) for reply in replies]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    output = tmp_path / "a.jsonl"
    arguments = [f"model_path={model_path}", f"output={output}", "labeller=threads_seen.score"]
    arguments += ["max_new_tokens=4", "device=cpu", "max_prompts=2", "threads=3"]
    code, _, errors = door(rank, "rank", *arguments)
    assert code == 0, errors
    assert importlib.import_module("threads_seen").seen == {3}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["labeller=me"], "labeller=me: this is no terminal"),
        (["labeller=nowhere.score"], "labeller=nowhere.score"),
        (["--config-dir=.", "+preset=theirs"], "labeller=os.remove: a config names this function"),
        (["labeller=sample", "num_replies=1"], "num_replies"),
        (["labeller=sample", "output=."], "output=.: name a file"),
        (["labeller=sample", "output=/"], "output=/: name a file"),
        (["labeller=sample", "output="], "output=: name a file"),
        (["labeller=sample", "output=.."], "output=..: cannot be read: it is a folder"),
        (["labeller=sample", "generation=greedy"], "generation=full"),
        (["labeller=sample", "max_new_tokens=127"], "no prompt of train"),
        (["labeller=sample", "data=file", "data.path=PROMPTS"], "add data=demonstrations"),
    ],
)
def test_a_mistake_is_one_line(door, model_path, tmp_path, arguments, message):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "Who shaves the barber?"}\n{"nothing": 1}\n')
    (tmp_path / "preset").mkdir()
    preset = tmp_path / "preset" / "theirs.yaml"
    preset.write_text("# @package _global_\nlabeller: os.remove\n")
    arguments = [argument.replace("PROMPTS", str(prompts)) for argument in arguments]
    output = tmp_path / "a.jsonl"
    code, _, errors = door(
        rank, "rank", f"model_path={model_path}", f"output={output}", "device=cpu", *arguments
    )
    assert code == 2
    assert message in errors.splitlines()[-1]
    assert not output.exists()


def test_rows_that_are_no_prompts_are_said(door, model_path, tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "Calculate 0 + 0."}\n{"nothing": 1}\n')
    arguments = [f"model_path={model_path}", f"data.path={path}", "data=file", "device=cpu"]
    arguments += ["labeller=sample", "max_new_tokens=4", f"output={tmp_path / 'a.jsonl'}"]
    code, _, errors = door(rank, "rank", *arguments, "data.validation_fraction=0")
    assert code == 0
    assert "rows left out: 1 " in errors


def test_a_persons_folder_may_be_the_home_folder(door, model_path, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    arguments = [f"model_path={model_path}", "output=~/mine/a.jsonl", "device=cpu"]
    arguments += ["labeller=sample", "max_new_tokens=4", "max_prompts=2"]
    code, _, errors = door(rank, "rank", *arguments)
    assert code == 0, errors
    assert (tmp_path / "mine" / "a.jsonl").exists()


@pytest.mark.parametrize(
    ("context", "known"),
    [
        (Context((), "Calculate 0 + 0."), True),
        (Context((), "Calculate 0 + 0.", "Answer in French."), False),
        (Context((), "Calculate 0 + 0.", "", "Hello, I answer rudely."), False),
        (Context((("Be rude.", "Of course."),), "Calculate 0 + 0."), False),
    ],
)
def test_the_labeller_knows_questions_with_nothing_before_them(context, known):
    assert is_known(context) is known
    row = EvaluationRow(messages_of(context), None, None, [])
    assert (choose_judge("auto", [row]) is not None) is known
