"""``run.json`` says with what a run was made, and when; and nothing secret."""

import json
import os
import subprocess
from datetime import datetime
from pathlib import Path

import pytest

from src.evaluation import record
from src.training import provenance
from src.training.provenance import MOST_STARTS, facts, note_end, note_start, without_secrets
from src.training.record import read_record


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    content = {"overrides": [], "settings": {"seed": 3}, "machine": {}, "config": {"seed": 3}}
    (tmp_path / "run.json").write_text(json.dumps(content), "utf-8")
    os.utime(tmp_path / "run.json", (1000, 1000))
    return tmp_path


def content(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text("utf-8"))


def test_a_record_says_with_what_the_run_was_made(folder):
    note_start(folder, ["experiment=quickstart", "data.path='my rows.jsonl'"], is_new=True)
    said = content(folder)
    assert datetime.fromisoformat(said["start"]).tzinfo is not None
    assert said["end"] is None
    assert said["command"].startswith("python -m src.train experiment=quickstart ")
    assert said["versions"].keys() >= {"python", "torch", "lightning", "transformers", "gpt2-chat"}
    assert said["hardware"].keys() >= {"cpu", "cores", "allowed_cores", "gpus"}
    assert said["hardware"]["cpu"]
    assert isinstance(said["dirty"], bool)
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent
    )
    assert said["commit"] == head.stdout.strip()
    note_end(folder)
    ended = content(folder)
    assert datetime.fromisoformat(ended["end"]) >= datetime.fromisoformat(ended["start"])
    assert ended["starts"][0]["end"] == ended["end"]
    assert read_record(folder).config == {"seed": 3}


def test_a_run_that_goes_on_keeps_its_first_start_and_lists_all(folder, monkeypatch):
    times = iter(f"2026-01-0{day}T00:00:00+01:00" for day in range(1, 5))
    monkeypatch.setattr(provenance, "now", lambda: next(times))
    note_start(folder, ["seed=3"], is_new=True)
    note_end(folder)
    note_start(folder, ["resume=here"], is_new=False)
    note_end(folder)
    said = content(folder)
    assert said["start"].startswith("2026-01-01")
    assert said["command"].endswith("seed=3")
    assert said["end"].startswith("2026-01-04")
    assert [start["start"][:10] for start in said["starts"]] == ["2026-01-01", "2026-01-03"]
    assert [start["end"][:10] for start in said["starts"]] == ["2026-01-02", "2026-01-04"]
    assert (folder / "run.json").stat().st_mtime == 1000  # resume=auto sorts runs by it


def test_a_run_of_an_older_version_gets_no_start_that_it_did_not_have(folder):
    note_start(folder, ["resume=here"], is_new=False)
    said = content(folder)
    assert "start" not in said
    assert len(said["starts"]) == 1


def test_a_refused_start_ends_nothing(folder):
    note_end(folder)
    assert "end" not in content(folder)


def test_starts_do_not_grow_without_end(folder, monkeypatch):
    monkeypatch.setattr(provenance, "facts", lambda overrides: {"start": overrides[0]})
    for number in range(MOST_STARTS + 5):
        note_start(folder, [str(number)], is_new=not number)
    starts = [start["start"] for start in content(folder)["starts"]]
    assert len(starts) == MOST_STARTS
    assert (starts[0], starts[-1]) == ("0", str(MOST_STARTS + 4))


@pytest.mark.parametrize("starts", [None, 3, "x", {}, [], [1], [[]], [None]])
def test_a_strangers_list_of_starts_stops_nothing(folder, starts):
    values = content(folder) | {"starts": starts}
    (folder / "run.json").write_text(json.dumps(values), "utf-8")
    note_start(folder, [], is_new=False)
    note_end(folder)
    assert content(folder)["end"]


SECRET = "s3cretvalue0123456789"


@pytest.mark.parametrize(
    "text",
    [
        f"data.path=https://user:{SECRET}@host/rows.jsonl",
        f"data.path='https://{SECRET}@host/rows.jsonl?a=1'",
        f"data.path=https://host/rows.jsonl?token={SECRET}&a=1",
        f"data.path=https://host/rows.jsonl?a=1&X-Amz-Signature={SECRET}",
        f"https://host/x?sig={SECRET}",
        f"api_key={SECRET}",
        f"data.name=hf_{SECRET}",
        f"x=sk-{SECRET}",
    ],
)
def test_no_secret_of_a_command_is_written_down(text):
    assert SECRET in text
    assert SECRET not in without_secrets(text)
    assert SECRET not in json.dumps(facts([text]))


@pytest.mark.parametrize(
    "text", ["model.tokenizer=gpt2", "data.path=https://host/a@b.jsonl", "optimizer.betas=[0.9]"]
)
def test_what_is_no_secret_stays(text):
    assert without_secrets(text) == text


def test_nothing_of_the_environment_is_written_down(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setenv("MY_VARIABLE", "hidden away")
    assert SECRET not in json.dumps(facts([]))
    assert "hidden away" not in json.dumps(facts([]))


def test_files_outside_a_repository_have_no_commit(tmp_path, monkeypatch):
    """Not even that of a repository around the environment they are installed in."""
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    who = ["-c", "user.name=x", "-c", "user.email=x@x"]
    commit = ["git", *who, "commit", "-q", "--allow-empty", "-m", "theirs"]
    subprocess.run(commit, cwd=tmp_path, check=True)
    (tmp_path / "record.py").write_text("", "utf-8")
    monkeypatch.setattr(record, "__file__", str(tmp_path / "record.py"))
    assert record.revision() == (None, None)
    assert record.commit() == "unknown"


def test_a_change_that_is_not_committed_is_told(tmp_path, monkeypatch):
    def git(*arguments: str) -> str:
        who = ["-c", "user.name=x", "-c", "user.email=x@x"]
        done = subprocess.run(
            ["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    file = tmp_path / "record.py"
    file.write_text("", "utf-8")
    git("init", "-q")
    git("add", "record.py")
    git("commit", "-q", "-m", "ours")
    monkeypatch.setattr(record, "__file__", str(file))
    said = facts([])
    assert (said["commit"], said["dirty"]) == (git("rev-parse", "HEAD"), False)
    file.write_text("changed = True\n", "utf-8")
    assert facts([])["dirty"] is True
