"""Messages in any shape and order are read: each shape that people have, one line."""

import subprocess
import sys
from pathlib import Path

import pytest

from src.data.content import UnusableRow
from src.data.messages import is_conversation, parse_list, read_messages

QA = (("Q", "A"),)


def said(*pairs, **keys):
    return [{"role": role, "content": text, **keys} for role, text in pairs]


LANGCHAIN = ["langchain", "schema", "HumanMessage"]
SHAPES = {
    "role/content": said(("user", "Q"), ("assistant", "A")),
    "from/value": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}],
    "role/text": [{"role": "prompter", "text": "Q"}, {"role": "assistant", "text": "A"}],
    "speaker/text": [{"speaker": "User", "text": "Q"}, {"speaker": "Bot", "text": "A"}],
    "author/message": [{"author": "customer", "message": "Q"}, {"author": "agent", "message": "A"}],
    "Role/Content": [{"Role": "USER", "Content": "Q"}, {"Role": "ASSISTANT", "Content": "A"}],
    "user/text": [{"user": "human", "text": "Q"}, {"user": "GPT-4", "text": "A"}],
    "langchain": [{"type": "human", "data": {"content": "Q"}}, {"type": "ai", "content": "A"}],
    "langchain's constructor": [
        {"lc": 1, "type": "constructor", "id": LANGCHAIN, "kwargs": {"content": "Q"}},
        {"role": "ai", "content": "A"},
    ],
    "gemini": [
        {"role": "user", "parts": [{"text": "Q"}]},
        {"role": "model", "parts": [{"text": "A"}]},
    ],
    "an author object": [
        {"author": {"role": "user"}, "content": {"content_type": "text", "parts": ["Q"]}},
        {"author": {"role": "assistant"}, "content": {"content_type": "text", "parts": ["A"]}},
    ],
    "both sides": [{"human": "Q", "assistant": "A"}],
    "one side each": [{"User": "Q"}, {"Bot": "A"}],
    "question and answer": [{"answer": "A", "question": "Q"}],
    "q and a": [{"q": "Q", "a": "A"}],
    "initials": said(("Q", "Q"), ("A:", "A")),
    "name/content": [{"name": "user", "content": "Q"}, {"name": "bot", "content": "A"}],
    "plain texts": ["Q", "A"],
    "labelled texts": ["Human: Q", "Assistant: A"],
    "pairs": [["Q", "A"]],
    "pairs of role and text": [("user", "Q"), ("assistant", "A")],
    "an object of lists": {"from": ["human", "gpt"], "value": ["Q", "A"]},
    "text parts": said(
        ("user", [{"type": "text", "text": " Q"}]),
        ("assistant", [{"type": "output_text", "text": "A"}, ""]),
    ),
    "no calls": [
        {"role": "user", "content": "Q"},
        {"role": "assistant", "content": "A", "tool_calls": None, "refusal": None},
    ],
    "null texts between": said(("user", "Q"), ("user", None), ("assistant", "A")),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_gives_the_same_turn(shape):
    reading = read_messages(SHAPES[shape])
    assert (reading.turns, reading.taught, reading.unused) == (QA, (True,), ())


@pytest.mark.parametrize("role", ["human", "User", "<|user|>", "human:", "Prompter", "user_1"])
def test_names_of_the_person(role):
    assert read_messages(said((role, "Q"))).question == "Q"


@pytest.mark.parametrize("role", ["AI", "gpt-3.5-turbo", "ChatGPT", "model", "Chatbot", "bot"])
def test_names_of_the_assistant(role):
    assert read_messages(said(("user", "Q"), (role, "A"))).turns == QA


def test_neighbours_are_joined_and_system_texts_go_to_the_front():
    reading = read_messages(
        said(
            ("developer", "Be brief."),
            ("ai", "Welcome."),
            ("user", "Q1"),
            ("system", "Be kind."),
            ("user", "Q2"),
            ("assistant", "A1"),
            ("assistant", "A2"),
            ("user", "and?"),
        )
    )
    assert reading.system == "Be brief.\n\nBe kind."
    assert reading.opening == "Welcome."
    assert reading.turns == (("Q1\n\nQ2", "A1\n\nA2"),)
    assert reading.question == "and?"


@pytest.mark.parametrize(
    "keys", [{"weight": 0}, {"weight": 0.0}, {"train": False}, {"loss_mask": 0}, {"masked": True}]
)
def test_a_message_can_be_read_and_not_taught(keys):
    messages = [*said(("user", "Q"), ("assistant", "A"), **keys), *said(("user", "R"), ("ai", "B"))]
    assert read_messages(messages).taught == (False, True)
    taught = [{**message, "weight": 1, "train": True, "masked": False} for message in messages[2:]]
    assert read_messages(taught).taught == (True,)


def test_what_a_message_holds_beside_its_text_is_named():
    messages = [
        {"role": "user", "content": "Q", "name": "Bob", "id": 0, "audio": None, "note": ""},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm."}, "A"]},
    ]
    reading = read_messages(messages)
    assert reading.turns == QA
    assert reading.unused == ("message key name", "message key id", "part thinking")


@pytest.mark.parametrize(
    ("reason", "found", "messages"),
    [
        ("tool_call", "look", [{"role": "assistant", "tool_calls": [{"name": "look"}]}]),
        ("tool_call", "look", [{"role": "assistant", "function_call": {"name": "look"}}]),
        ("tool_call", "tool_use", said(("assistant", [{"type": "tool_use", "input": {}}]))),
        ("tool_call", "functionCall", said(("model", [{"functionCall": {"name": "f"}}]))),
        ("tool_result", "42", said(("tool", "42"))),
        ("tool_result", "42", said(("observation", "42"))),
        ("image", "u.png", said(("user", [{"type": "image_url", "image_url": "u.png"}]))),
        ("image", "u.png", [{"role": "user", "content": "Q", "images": ["u.png"]}]),
        ("audio", "u.wav", said(("user", [{"type": "input_audio", "input_audio": "u.wav"}]))),
        ("unknown_role", "Gandalf", said(("Gandalf", "Q"))),
        ("unknown_role", "null", said((None, "Q"))),
        ("not_a_list_of_messages", "Q", "Q"),
        ("not_a_list_of_messages", "null", None),
        ("not_a_list_of_messages", "txt", [{"from": "human", "txt": "Q"}]),
        ("not_a_list_of_messages", "3", [3]),
        ("not_text", "kind", said(("user", [{"kind": "x"}]))),
        ("invalid_unicode", "half", said(("user", "half a pair \ud83d"))),
        ("empty_prompt", "A", said(("user", " "), ("assistant", "A"))),
        ("empty_response", "Q", said(("user", "Q"), ("assistant", None))),
    ],
)
def test_what_we_do_not_read_is_refused_by_name(reason, found, messages):
    with pytest.raises(UnusableRow) as caught:
        read_messages(messages)
    assert caught.value.reason == str(caught.value) == reason
    assert found in caught.value.found


def test_empty_messages_can_be_left_out():
    messages = said(("user", "Q"), ("assistant", ""), ("user", "R"))
    assert read_messages(messages, skip_empty=True).question == "Q\n\nR"


def test_a_list_is_read_from_text_as_json_and_as_python_print_it():
    messages = said(("user", 'It\'s "Q"'), ("assistant", None))
    assert parse_list(repr(messages)) == messages
    assert parse_list('[{"role": "user", "content": null}]') == said(("user", None))
    assert parse_list("[sic] is no list") is None
    assert parse_list("3") is None


def test_a_conversation_is_told_from_other_lists():
    assert all(is_conversation(SHAPES[shape]) for shape in SHAPES if "texts" not in shape)
    for other in (["a", "b"], [1, 2], [], None, "Q", [{"label": "x"}], {"a": ["b"]}, [[1, 2]]):
        assert not is_conversation(other)


def test_messages_are_read_without_the_libraries_of_training():
    code = (
        "import sys, src.data.messages;"
        "print(sorted({'torch', 'numpy', 'datasets', 'lightning'} & sys.modules.keys()))"
    )
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == "[]"
