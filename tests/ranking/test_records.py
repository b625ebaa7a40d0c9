"""The files of rankings: whose they are, and what survives."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from src.data.comparison import Context
from src.errors import UserError
from src.ranking.best import BestReplies
from src.ranking.draws import Drawn
from src.ranking.records import Records

ROOT = Path(__file__).parents[2]
ROW = {"prompt": "q", "replies": ["a", "b"], "ranks": [1, 2], "ended": [True, True]}
ORIGIN = {"model": "m", "weights": "w", "seed": 1, "generation": {"temperature": 1.0}}


def drawn(number: int = 0) -> Drawn:
    return Drawn(Context((), f"question {number}"), "", ("a", "b"), (True, True))


@pytest.mark.parametrize("kind", [Records, BestReplies])
@pytest.mark.parametrize(
    "content",
    [
        '{"theme": "dark"}',
        '{\n  "theme": "dark"\n}',
        "my notes",
        '{"prompt": "Be bri',
        '{"prompt": "a", "text": "b"}\n{"prompt": "c", "te',
        json.dumps(ROW | {"ranks": [1]}),
        "[1, 2]",
        "12",
        json.dumps(ROW) + "\nand a remark of mine",
        json.dumps({"prompt": "a", "response": "b"}) + "\nand a remark of mine",
        "[" * 20_000,
    ],
)
def test_a_file_that_is_not_ours_is_not_touched(tmp_path, kind, content):
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    with pytest.raises(UserError, match=r"output=.*, line \d: .*name a new file"):
        kind(path).begin(ORIGIN)
    assert path.read_text() == content
    assert os.listdir(tmp_path) == ["a.jsonl"]


def test_to_read_changes_nothing_and_the_first_row_mends_the_end(tmp_path):
    path = tmp_path / "a.jsonl"
    whole = json.dumps(ROW)
    for end in ("", "\n", '\n{"prompt": "cut o', '\n{"mes', "\n\n  "):
        path.write_text(whole + end)
        assert Records(path).rows == [ROW]
        assert path.read_text() == whole + end
        records = Records(path)
        records.begin(ORIGIN)
        records.add(drawn(), [1, 2])
        rows = [json.loads(line) for line in path.read_text().split("\n") if line.strip()]
        assert [row["prompt"] for row in rows] == ["q", "question 0"], end
        assert Records(path).rows == rows


def test_what_the_first_write_of_all_left_is_mended(tmp_path):
    path, notes = tmp_path / "a.jsonl", tmp_path / ".a.notes.jsonl"
    notes.write_text('{"from": {"mod')
    records = Records(path)
    records.begin(ORIGIN)
    records.add(drawn(), [1, 2])
    records.close()
    first = path.read_text()
    path.write_text(first[:20])
    records = Records(path)
    records.add(drawn(), [1, 2])
    assert path.read_text() == first


def test_lines_end_where_a_file_says_so_and_nowhere_else(tmp_path):
    path = tmp_path / "a.jsonl"
    rows = [ROW | {"prompt": f"one{sign}two"} for sign in "\u2028\u2029\u0085\u000b\u001c"]
    text = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text(f"\n{text}\n\n", encoding="utf-8", newline="")
    assert [row["prompt"] for row in Records(path).rows] == [row["prompt"] for row in rows]
    path.write_text(f"\n\n{json.dumps(ROW)}\n\nno JSON\n")
    with pytest.raises(UserError, match="line 5: no JSON"):
        Records(path)


def test_a_ranking_is_on_the_disk_before_the_next_is_asked(tmp_path, monkeypatch):
    records = Records(tmp_path / "a.jsonl")
    on_disk: list[str] = []
    sync = os.fsync

    def seen(descriptor: int) -> None:
        sync(descriptor)
        on_disk.append(Path(f"/proc/self/fd/{descriptor}").resolve().name)

    monkeypatch.setattr("os.fsync", seen)
    for number in range(2):
        on_disk.clear()
        records.add(drawn(number), [1, 2])
        assert "a.jsonl" in on_disk
    records.skip(drawn(2))
    assert ".a.notes.jsonl" in on_disk


@pytest.mark.slow
def test_one_program_at_a_time_writes(tmp_path):
    path = tmp_path / "a.jsonl"
    records = Records(path)
    records.begin(ORIGIN)
    code = (
        "import pathlib, sys; from src.ranking.records import Records;"
        f"Records(pathlib.Path(sys.argv[1]), 'rank.output').begin({ORIGIN!r})"
    )

    def other() -> str:
        command = [sys.executable, "-c", code, str(path)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stderr

    assert "UserError: rank.output=" in other()
    assert "another program writes there" in other()
    records.add(drawn(), [1, 2])
    records.close()
    assert other() == ""
    assert sorted(os.listdir(tmp_path)) == [".a.notes.jsonl", "a.jsonl"]


@pytest.mark.parametrize("name", [".", "/", "", "..", "/dev/null"])
def test_what_is_no_file_is_refused(name):
    with pytest.raises(UserError, match=r"rank\.output=.*name a file"):
        Records(Path(name), "rank.output")
