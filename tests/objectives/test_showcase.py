"""Held-out conversations are asked as a person would meet them, and scored by turn."""

import json
from itertools import pairwise
from types import SimpleNamespace

import pytest

from src.data.conversation import Conversation
from src.data.sources import open_source
from src.objectives import showcase
from src.objectives.reply_table import Answered, as_json, as_markdown, print_table
from src.objectives.showcase import Showcase, exact_match_lines
from src.talk.messages import Message
from tests.training.conftest import small_run  # noqa: F401

TRAIN = [
    Conversation((("Capital of Peru?", "Lima."),), family="capitals"),
    Conversation((("Capital of Cuba?", "Havana."), ("And of Chile?", "Santiago.")), family="more"),
]
TEST = [
    Conversation((("The capital of Peru?", "Lima."),), family="capitals"),
    Conversation((("Hot?", "Cold."), ("And big?", "Small.")), family="follow_up/another"),
    Conversation(
        (("Hot?", "Cold."), ("And wet?", "Dry.")), "Be brief.", family="follow_up/another"
    ),
    Conversation((("x " * 500, "Never."),), family="long"),
]
ANSWERS = {"The capital of Peru?": "Lima.", "And big?": "Small.", "And wet?": "Wet."}


class FakeAssistant:
    """Answers by heart; reads at most 100 characters."""

    def __init__(self, *_):
        pass

    def can_read(self, messages) -> bool:
        return len(messages[-1].content) < 100

    def replies(self, asked, generation, progress=None) -> list[str]:
        return [ANSWERS.get(messages[-1].content, "?") for messages in asked]


@pytest.fixture
def figures(monkeypatch, tmp_path):
    monkeypatch.setattr(showcase, "Assistant", FakeAssistant)
    splits = {"train": TRAIN, "test": TEST}
    data = SimpleNamespace(conversations=splits.__getitem__, tokenizer=None)
    config = SimpleNamespace(exact_match=True, generation=None)
    shown = Showcase(data, config, tmp_path)
    return shown.score(model=None), shown


def test_exact_match_counts_by_turn_system_text_and_family(figures):
    assert figures[0] == {
        "exact_match": 0.5,
        "exact_match/turn_1": 0.5,
        "exact_match/turn_2": 0.5,
        "exact_match/system": 0.0,
        "exact_match/capitals": 1.0,
        "exact_match/follow_up": 0.5,
        "exact_match/follow_up/another": 0.5,
        "exact_match/long": 0.0,  # too long to read: wrong
        "exact_match_nearest_neighbour": 0.25,
    }


def test_the_table_shows_what_was_said_before_a_second_question(figures, capsys):
    figures[1].show()
    lines = [line.strip("│ ").split("│")[0].strip() for line in capsys.readouterr().err.split("\n")]
    start = lines.index("Hot?")
    assert lines[start : start + 3] == ["Hot?", "> Cold.", "And big?"]


def wide_rows():
    messages = [
        Message("system", "Be brief."),
        Message("user", "Hot?"),
        Message("assistant", "Cold."),
    ]
    long = [*messages, Message("user", "word " * 200)]
    return [
        Answered(long, "[red]loud\x1b[31m", "answer " * 90, "the\nreference"),
        Answered([Message("user", "Why?")], "", "Because.", None),
    ]


@pytest.mark.parametrize("content", [b"", bytes(64), b'{"Hot?": "\xf4"}', b"[]", b"[" * 9999, None])
def test_damaged_replies_of_before_are_named_and_cost_the_run_nothing(
    content, figures, tmp_path, caplog
):
    expected, shown = figures
    path = tmp_path / "before.json"
    path.mkdir() if content is None else path.write_bytes(content)
    assert shown.score(model=None) == expected
    assert {row.before for row in shown.rows} == {""}
    (text,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert str(path) in text
    assert "\n" not in text


def test_the_table_is_readable_at_100_columns_whatever_the_replies(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    print_table(wide_rows())
    text = capsys.readouterr().err
    assert max(map(len, text.splitlines())) <= 100
    assert len(text.splitlines()) < 30
    assert "\x1b" not in text
    assert "[red]loud" in text  # as it is, no markup
    for words in ("reference", "...", "(1 message before)", "(nothing)"):
        assert words in text


def test_the_files_hold_the_replies_in_full():
    rows = wide_rows()
    first, second = json.loads(as_json(rows))
    assert first["after"] == rows[0].after
    assert first["question"].startswith("system: Be brief.\nHot?\n> Cold.\nword")
    assert second["reference"] is None
    text = as_markdown(rows)
    assert "    the\n    reference\n" in text
    assert text.count("before training:") == 2


def test_every_run_asks_its_prompts_and_a_dozen_test_rows(small_run, tmp_path, capsys):  # noqa: F811
    rows = tmp_path / "rows.jsonl"
    lines = [{"prompt": f"question {i} of {i * i}", "response": f"answer {i}"} for i in range(300)]
    lines[0]["prompt"] = "long " * 300
    rows.write_text("\n".join(map(json.dumps, lines)))
    own = ("data=file", f"data.path={rows}", "data.test_fraction=0.3", "data.block_size=64")
    run = small_run(*own, "max_steps=2", "sample_prompts=[Who are you?]")
    found = json.loads((run / "replies.json").read_text(encoding="utf-8"))
    assert found[0]["question"] == "Who are you?"
    assert found[0]["reference"] is None
    assert len(found) == 13
    by_prompt = {line["prompt"]: line["response"] for line in lines}
    assert all(row["reference"] == by_prompt[row["question"]] for row in found[1:])
    before = json.loads((run / "before.json").read_text(encoding="utf-8"))
    assert all(row["before"] == before[row["question"]] for row in found)
    assert (run / "replies.md").read_text(encoding="utf-8").count("\n## ") == 13
    assert "Who are you?" in capsys.readouterr().err


def test_the_dozen_rows_are_of_a_dozen_families(data_config):
    source = open_source(data_config(source="sample"))
    found = source.some("test", showcase.NUM_QUESTIONS)
    assert len({conversation.family for conversation in found}) == showcase.NUM_QUESTIONS
    assert found == source.some("test", showcase.NUM_QUESTIONS)
    many = source.some("test", 400)
    assert len(set(map(id, many))) == len(many) == 400


def test_the_dozen_rows_of_one_family_are_from_all_over_it(data_config, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "\n".join(json.dumps({"prompt": f"question {i}", "response": f"{i}"}) for i in range(2000))
    )
    source = open_source(data_config(source="file", path=str(path), test_fraction=0.4))
    numbers = sorted(int(c.turns[0][1]) for c in source.some("test", 12))
    assert max(b - a for a, b in pairwise([0, *numbers, 2000])) < 400


def test_one_switch_keeps_the_table_off_the_terminal(figures, capsys, monkeypatch):
    monkeypatch.setattr(Showcase, "on_terminal", False)
    figures[1].show()
    assert capsys.readouterr().err == ""


def test_the_summary_names_the_share_of_each_kind():
    lines = exact_match_lines(
        {"exact_match": 0.5, "exact_match/turn_2": 0.25, "exact_match_nearest_neighbour": 0.1}
    )
    assert any("test conversations: 50.0%" in line for line in lines)
    assert any(line.split() == ["turn_2", "25.0%"] for line in lines)
    assert exact_match_lines({}) == []
