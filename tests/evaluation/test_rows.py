"""Prompts in the shapes people have, with answers or without."""

import json

import pytest

from src.errors import UserError
from src.evaluation.rows import rows_of_prompts, rows_of_split
from src.talk.messages import Message

ASKED = [Message("user", "Who are you?")]


def read(tmp_path, name: str, text: str):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return rows_of_prompts(str(path))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "\ufeffWho are you?\n\n"),
        ("a.json", '["Who are you?"]'),
        ("a.jsonl", '{"prompt": "Who are you?"}'),
        ("a.jsonl", '{"question": "Who are you?"}'),
        ("a.jsonl", '{"instruction": "Who are you?", "input": "", "output": ""}'),
        ("a.jsonl", '{"messages": [{"role": "user", "content": "Who are you?"}]}'),
        ("a.jsonl", '{"conversations": [{"from": "human", "value": "Who are you?"}]}'),
        ("a.csv", "prompt\nWho are you?\n"),
        ("a.csv", "prompt,response\nWho are you?,\n"),
        ("a.json", '[{"prompt": "Who are you?", "response": null}]'),
    ],
)
def test_a_prompt_without_an_answer_is_asked_and_not_scored(tmp_path, name, text):
    (row,) = read(tmp_path, name, text)
    assert row.messages == ASKED
    assert row.reference is None
    assert row.conversation is None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", '{"prompt": "Who are you?", "response": "A model."}'),
        ("a.csv", "question,answer\nWho are you?,A model.\n"),
        (
            "a.json",
            '[{"messages": [{"role": "user", "content": "Who are you?"},'
            ' {"role": "assistant", "content": "A model."}]}]',
        ),
    ],
)
def test_a_prompt_with_an_answer_is_scored_too(tmp_path, name, text):
    (row,) = read(tmp_path, name, text)
    assert row.messages == ASKED
    assert row.reference == "A model."
    assert row.conversation.turns == (("Who are you?", "A model."),)


def test_earlier_turns_system_text_and_family_come_along(tmp_path):
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "1 + 1"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "And again?"},
    ]
    text = json.dumps({"messages": messages, "family": "sums"})
    (row,) = read(tmp_path, "a.jsonl", text)
    assert [m.content for m in row.messages] == ["Be brief.", "1 + 1", "2", "And again?"]
    assert row.reference is None
    assert row.labels == ["turn_2", "sums", "system"]
    (pair,) = read(tmp_path, "b.jsonl", '{"system": "Be brief.", "prompt": "Hi"}')
    assert [m.role for m in pair.messages] == ["system", "user"]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.jsonl", '{"prompt": "Hi"}\n{"prompt": \n', ["a.jsonl, line 2"]),
        ("a.jsonl", '{"prompt": "Hi"}\n{"colour": "red"}\n', ["a.jsonl, line 2"]),
        ("a.jsonl", '{"prompt": ""}\n', ["a.jsonl, line 1"]),
        ("a.txt", "\n\n", ["no prompts"]),
    ],
)
def test_a_row_that_cannot_be_asked_is_named(tmp_path, name, text, words):
    with pytest.raises(UserError) as error:
        read(tmp_path, name, text)
    assert all(word in str(error.value) for word in words)
    assert "\n" not in str(error.value)


def test_columns_encoding_and_number_of_rows_are_a_persons_choice(data_config, tmp_path):
    def of(columns, max_rows=None):
        return data_config(columns=columns, encoding="cp1252", max_rows=max_rows)

    path = tmp_path / "fragen.csv"
    path.write_bytes("frage,antwort\nStraße?,Ja.\nWeg?,Nein.\n".encode("cp1252"))
    (row,) = rows_of_prompts(str(path), of({"Prompt": "frage", "response": "antwort"}, 1))
    assert row.conversation.turns == (("Straße?", "Ja."),)
    (asked, _) = rows_of_prompts(str(path), of({"prompt": "frage"}))
    assert (asked.messages, asked.reference) == ([Message("user", "Straße?")], None)
    with pytest.raises(UserError, match=r"no row has data\.columns' antwrt"):
        rows_of_prompts(str(path), of({"prompt": "frage", "response": "antwrt"}))
    with pytest.raises(UserError, match=r"fragen.csv, line 2: no conversation: .*data\.columns="):
        rows_of_prompts(str(path), of(None))
    (tmp_path / "a.txt").write_bytes(b"caf\xe9\n")
    assert rows_of_prompts(str(tmp_path / "a.txt"), of(None))[0].messages[0].content == "café"


def test_a_file_that_is_not_there_and_a_folder_are_named(tmp_path):
    with pytest.raises(UserError, match="there is no such file"):
        rows_of_prompts(str(tmp_path / "none.jsonl"))
    with pytest.raises(UserError, match="is a folder"):
        rows_of_prompts(str(tmp_path))
    (tmp_path / "a.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(UserError, match="not UTF-8"):
        rows_of_prompts(str(tmp_path / "a.txt"))


def test_a_split_has_its_own_rows(data_config, tmp_path):
    rows, report = rows_of_split(data_config(max_rows=50), "test")
    assert len(rows) == report.used["test"] == 50
    assert all(row.reference for row in rows)


def test_a_split_without_rows_says_what_there_is(data_config, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "Hi", "response": "Ho"}\n')
    config = data_config(source="file", path=str(path))
    with pytest.raises(UserError, match="1 in train, 0 in validation, 0 in test"):
        rows_of_split(config, "test")
    assert len(rows_of_split(config, "train")[0]) == 1
