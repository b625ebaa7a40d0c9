"""The tab of rankings, as the server plays it."""

import json
import re

import pytest

from src.errors import UserError
from src.page.ranking import Move
from src.ranking.records import Records


def say(ranker, shown, action: str, ranks=()):
    return ranker.play(Move(action=action, id=shown["id"], ranks=list(ranks)))


def rank_by_length(ranker, shown):
    """Rank the longer reply as better."""
    lengths = [len(reply["text"]) for reply in shown["question"]["replies"]]
    return say(ranker, shown, "rank", [1 + sum(o > n for o in lengths) for n in lengths])


def test_a_person_ranks_skips_takes_back_and_sees_no_more_than_that(ranker, tmp_path):
    first = ranker.play(Move(action="show"))
    assert first["notice"].startswith("rows left out: 1 ")
    assert set(first["question"]) == {"messages", "replies"}
    assert not first["can_undo"]
    assert "prompts left: 14" in first["status"]
    second = rank_by_length(ranker, first)
    assert second["question"] != first["question"]
    third = say(ranker, second, "skip")
    back = say(ranker, third, "undo")
    assert sorted(map(str, back["question"]["replies"])) == sorted(
        map(str, second["question"]["replies"])
    )
    again = say(ranker, back, "undo")
    assert again["question"]["messages"] == first["question"]["messages"]
    assert Records(tmp_path / "a.jsonl").rows == []
    assert "there is nothing" in say(ranker, again, "undo")["notice"]


def test_its_rows_are_those_of_the_terminal_and_every_tenth_comes_twice(ranker, tmp_path):
    shown = ranker.play(Move(action="show"))
    asked = 0
    while shown["question"] is not None:
        ranker.prepare()
        shown = rank_by_length(ranker, shown)
        asked += 1
    assert (asked, shown["can_undo"]) == (15, True)
    assert "14 ranked" in shown["status"]
    assert re.search(r"100% of [1-3] pairs agree; prompts left: 0", shown["status"])
    rows = Records(tmp_path / "a.jsonl").rows
    assert {row["prompt"] for row in rows} == {f"question {i}" for i in range(14)}
    for row in rows:
        by_rank = sorted(zip(row["ranks"], map(len, row["replies"]), strict=True))
        assert [length for _, length in by_rank] == sorted(map(len, row["replies"]), reverse=True)
    assert say(ranker, shown, "skip")["question"] is None
    back = say(ranker, shown, "undo")
    assert "prompts left: 1" in back["status"]


def test_what_is_said_to_another_question_changes_nothing(ranker, tmp_path):
    first = ranker.play(Move(action="show"))
    ahead = rank_by_length(ranker, first)
    late = rank_by_length(ranker, first)
    assert "that is no longer asked" in late["notice"]
    assert late["question"] == ahead["question"]
    assert len(Records(tmp_path / "a.jsonl").rows) == 1
    for ranks in ([], [1], [0, 1, 2], [-1, 1, 1]):
        with pytest.raises(UserError, match="is not a rank for each of 3 replies"):
            say(ranker, late, "rank", ranks)
    ranker.session = None  # as after a new start of the program
    assert "that is no longer asked" in say(ranker, late | {"id": 0}, "skip")["notice"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", '{"prompt": "a", "response": "b"}\n', "it holds other rows"),
        (".a.notes.jsonl", '{"text": "mine"}\n', "no note of rankings"),
        ("prompts.jsonl", '{"text": 1}\n', "prompts.jsonl"),
    ],
)
def test_bad_files_are_one_line_and_can_be_mended(ranker, tmp_path, name, text, message):
    before = (tmp_path / name).read_text() if (tmp_path / name).exists() else None
    (tmp_path / name).write_text(text)
    for _ in range(2):
        with pytest.raises(UserError, match=message) as error:
            ranker.play(Move(action="show"))
        assert "\n" not in str(error.value)
    if before is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(before)
    assert ranker.play(Move(action="show"))["question"]


def test_it_goes_on_where_the_terminal_was(ranker, tmp_path):
    shown = ranker.play(Move(action="show"))
    for _ in range(3):
        shown = rank_by_length(ranker, shown)
    ranker.session.records.close()  # as the end of the terminal's program does
    ranker.session = None
    ranker.model_path = "other"
    shown = ranker.play(Move(action="show"))
    assert "prompts left: 11" in shown["status"]
    assert "3 of model (seed 1)" in shown["notice"]
    lines = (tmp_path / ".a.notes.jsonl").read_text().splitlines()
    notes = [json.loads(line) for line in lines]
    assert [note["from"]["model"] for note in notes] == ["model"]
    assert [note["from"]["labeller"] for note in notes] == ["me"]
