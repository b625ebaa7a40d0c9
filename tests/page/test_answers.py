import itertools
import json
import re
from dataclasses import replace

import pytest

from src.errors import UserError
from src.page.answers import Answers, Limits
from src.page.history import complete_turns
from src.page.options import page_options
from src.page.question import Question, read_question
from src.talk.assistant import Assistant
from src.talk.messages import Message
from src.talk.model_folder import save_model_folder
from tests.conftest import greedy
from tests.model.conftest import random_model, tiny_config

LIMITS = Limits(100, 60.0, 4)


@pytest.fixture
def answers(models, folders) -> Answers:
    return Answers(models, {name: name[-12:] for name in folders}, greedy(8), LIMITS)


def asked(models: list[str], *texts: str, **settings) -> Question:
    """A question, the last of ``texts``, to models that said the second one, the fourth..."""
    roles = itertools.cycle(("user", "assistant"))
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
    wanted = [{"model": model, "messages": messages} for model in models]
    return read_question(json.dumps({"answers": wanted, **settings}).encode())


def text_of(events: list[dict], index: int = 0) -> str:
    return "".join(event["piece"] for event in events if event["answer"] == index)


def errors_of(answers: Answers, question: Question) -> list[str]:
    return [event["error"] for event in answers.events(question) if "error" in event]


def test_an_answer_comes_in_pieces_and_ends_with_a_line_about_it(answers, folders):
    loading, *events = answers.events(asked(folders[:1], "hello"))
    assert loading["status"].endswith(" is loaded")
    assert sum(bool(event["piece"]) for event in events) > 2
    assert [event["end"] for event in events] == [False] * (len(events) - 1) + [True]
    assert events[-1]["status"].startswith("8 tokens, ")
    assert "reached its limit" in events[-1]["status"]


def test_earlier_turns_count_but_a_question_without_an_answer_does_not(
    answers, folders, monkeypatch
):
    read = []
    reply = Assistant.reply
    monkeypatch.setattr(
        Assistant, "reply", lambda self, m, *a: read.append(m) or reply(self, m, *a)
    )
    texts = ("failed", "", "hi", "hello", "failed too", " ", "and you?")
    list(answers.events(asked(folders[:1], *texts, system="Be kind.")))
    assert [(m.role, m.content) for m in read[0]] == [
        ("system", "Be kind."),
        ("user", "hi"),
        ("assistant", "hello"),
        ("user", "and you?"),
    ]


def test_two_models_answer_the_same_question_each_as_if_alone(answers, folders):
    together = list(answers.events(asked(folders, "hello")))
    assert text_of(together, 0) != text_of(together, 1)
    for index, folder in enumerate(folders):
        assert text_of(together, index) == text_of(list(answers.events(asked([folder], "hello"))))
    assert sum(event["end"] for event in together) == 2
    turns = [event["answer"] for event in together if event["piece"]]
    assert turns[:4] in ([0, 1, 0, 1], [1, 0, 1, 0])


def test_one_model_can_be_compared_with_itself(answers, folders):
    events = list(answers.events(asked([folders[0]] * 2, "hello")))
    assert text_of(events, 0) == text_of(events, 1)


def test_settings_reach_the_decoder(answers):
    numbers = {"max_new_tokens": 3, "temperature": 0.5, "top_k": 7, "top_p": 0.9, "min_p": 0.1}
    question = asked(["m"], "q", numbers=numbers, seed=" 42 ", stop=["\n", "x"])
    config = answers.generation_of(question)
    assert (config.max_new_tokens, config.temperature, config.top_k) == (3, 0.5, 7)
    assert (config.top_p, config.min_p, config.seed) == (0.9, 0.1, 42)
    assert config.stop == ["\n", "x"]
    off = answers.generation_of(asked(["m"], "q", numbers={"top_k": 0, "min_p": 0, "top_p": None}))
    assert (off.top_k, off.min_p, off.top_p) == (None, None, None)


def test_an_empty_seed_is_another_each_time(answers):
    assert len({answers.generation_of(asked(["m"], "q", seed=" ")).seed for _ in range(5)}) == 5


def test_a_stop_string_ends_an_answer(answers, folders):
    text = text_of(list(answers.events(asked(folders[:1], "hello"))))
    events = list(answers.events(asked(folders[:1], "hello", stop=[text[1:3]])))
    assert text_of(events) == text[: text.index(text[1:3])]
    assert "a stop string ended it" in events[-1]["status"]


@pytest.mark.parametrize(
    ("question", "model", "settings", "message"),
    [
        ("x" * 101, None, {}, "the message has 101 characters, and 100 are the most: shorten it"),
        ("hi", None, {"system": "x" * 101}, "the system text has 101 characters"),
        ("x y " * 20, None, {"system": "x y " * 20}, "leaves no room for an answer"),
        ("  ", None, {}, "the prompt is empty"),
        ("\ud800", None, {}, "half a surrogate pair"),
        ("hi", None, {"system": "\ud800"}, "half a surrogate pair"),
        ("hello", "/etc", {}, "there is no model /etc here"),
        ("hi", None, {"numbers": {"top_p": 5}}, "top_p=5.0: must be in (0, 1], or null"),
        ("hi", None, {"numbers": {"max_new_tokens": 2.5}}, "max_new_tokens=2.5: must be a whole"),
        ("hi", None, {"numbers": {"max_new_tokens": 0}}, "max_new_tokens=0: must be at least 1"),
        ("hi", None, {"numbers": {"hot": 2}}, "there is no setting hot"),
        ("hi", None, {"seed": "one"}, "seed=one: must be a whole number, or empty"),
        ("hi", None, {"seed": "9" * 30}, "must be in [-2^63, 2^63)"),
        ("hi", None, {"stop": [""]}, "a stop string is empty"),
    ],
)
def test_a_mistake_is_one_line_and_the_next_question_is_answered(
    answers, folders, question, model, settings, message
):
    (error,) = errors_of(answers, asked([model or folders[0]], question, **settings))
    assert message in error
    assert text_of(list(answers.events(asked(folders[:1], "hello"))))


def test_a_model_that_cannot_answer_leaves_the_other_alone(answers, folders):
    events = list(answers.events(asked([folders[0], "/etc"], "hello")))
    assert {"answer": 1, "error": "there is no model /etc here"} in events
    assert events[-1]["answer"] == 0
    assert events[-1]["end"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the request: "),
        (b"[]", "the request: "),
        (b'{"answers": []}', "answers: "),
        (b'{"answers": [{"model": "m", "messages": []}]}', "answers.0.messages: "),
        (b'{"answers": [{"model": "m", "messages": [{"role": "tool", "content": ""}]}]}', "role: "),
        (b'{"answers": [], "numbers": {"top_p": NaN}}', "answers: "),
        (b'{"answers": [], "more": 1}', "answers: "),
        (b"[" * 100_000, "the request: "),
        (b"\xff", "the request: "),
    ],
)
def test_what_is_no_question_is_refused_in_one_line(body, message):
    with pytest.raises(UserError, match=message) as refusal:
        read_question(body)
    assert "\n" not in str(refusal.value)


def test_an_answer_takes_no_longer_than_it_may(models, folders):
    answers = Answers(models, {folders[0]: "first"}, greedy(100), Limits(100, 0.0, 4))
    *_, last = answers.events(asked(folders[:1], "hello"))
    assert "it took longer than 0 seconds" in last["status"]
    assert int(last["status"].split()[0]) < 100


def test_no_more_than_two_models_are_in_memory(models, folders, tmp_path, tokenizer):
    third = tmp_path / "third"
    save_model_folder(
        third, random_model(tiny_config(vocab_size=tokenizer.vocab_size)), tokenizer, greedy(8)
    )
    first = models.get(folders[0])
    models.get(folders[1])
    assert models.get(folders[0]) is first
    models.get(str(third))
    assert set(models.assistants) == {folders[0], str(third)}


def test_the_settings_reach_what_is_configured():
    given = {
        "max_new_tokens": 2000,
        "temperature": 3.0,
        "top_k": 500,
        "top_p": 0.01,
        "min_p": 0.05,
        "repetition_penalty": 0.5,
    }
    options = page_options({"a": "A"}, ["a"], ["hi"], replace(greedy(8), **given))
    numbers = {number["name"]: number for number in options["numbers"]}
    assert {name: numbers[name]["value"] for name in given} == given
    assert all(n["least"] <= n["value"] <= n["most"] for n in numbers.values())


def test_of_a_long_conversation_only_the_newest_turns_are_read(answers, folders, monkeypatch):
    read = []
    reply = Assistant.reply
    monkeypatch.setattr(
        Assistant, "reply", lambda self, m, *a: read.append(m) or reply(self, m, *a)
    )
    texts = ["x" * 20] * 2000
    *_, last = answers.events(asked(folders[:1], *texts, "y" * 40, numbers={"max_new_tokens": 1}))
    assert [len(m.content) for m in read[0]] == [20] * 18 + [40]  # 400 characters
    assert re.search(r"no room for the (\d+) oldest turns", last["status"])
    list(answers.events(asked(folders[:1], *texts[:4], "y", numbers={"max_new_tokens": 1})))
    assert len(read[1]) == 5


def test_turns_without_an_answer_are_left_out():
    said = [Message("user", "a"), Message("user", "b"), Message("assistant", "c")]
    assert complete_turns([*said, Message("user", "d")]) == said[1:]
