"""Models on the page are named by what differs."""

import json
from pathlib import Path

import pytest

from src.page.labels import first_names, model_labels


def run(folder: Path, *overrides: str) -> str:
    (folder / "model").mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"overrides": overrides}), encoding="utf-8")
    return str(folder / "model")


def labels(names: list[str]) -> list[str]:
    return list(model_labels(names).values())


def test_runs_are_named_by_their_start_and_what_was_changed(tmp_path):
    first = run(tmp_path / "2026-11-26_03-51-08_399bb9", "experiment=quickstart", "seed=1")
    second = run(
        tmp_path / "2026-11-26_04-47-52_dcc0b5",
        "experiment=quickstart",
        "optimizer.learning_rate=1e-3",
        "data.corpus_dir=/somewhere",
        "seed=1",
    )
    assert labels([first, second]) == ["2026-11-26 03:51", "learning_rate=1e-3 (2026-11-26 04:47)"]
    assert labels([second]) == ["2026-11-26 04:47"]


def test_runs_of_one_minute_are_told_apart(tmp_path):
    starts = ("2026-11-26_03-51-08_399bb9", "2026-11-26_03-51-09_399bb9")
    names = [run(tmp_path / start) for start in starts]
    assert labels(names) == ["2026-11-26 03:51:08", "2026-11-26 03:51:09"]
    names.append(run(tmp_path / "2026-11-26_03-51-09_000000"))
    assert len(set(labels(names))) == 3


def test_the_runs_of_a_sweep_are_named_by_its_values(tmp_path):
    values = ("learning_rate=1e-3", "learning_rate=1e-4")
    assert labels([run(tmp_path / "sweep" / value, value) for value in values]) == list(values)


def test_of_equal_names_the_parts_that_differ_are_shown(tmp_path):
    names = [run(tmp_path / place / "deep" / "same") for place in ("a", "b")]
    names.append(run(tmp_path / "other"))
    assert labels(names) == ["a", "b", "other"]


@pytest.mark.parametrize(
    "parts",
    [("x/x", "x"), ("a/x", "x", "b/a/x"), ("model", "a/model"), ("a", "a (b)"), (" ", "  ")],
)
def test_no_two_models_have_one_name(tmp_path, parts):
    names = [run(tmp_path / part) for part in parts]
    assert len(set(labels(names))) == len(parts)
    assert all(labels(names))


def test_hub_names_and_folders_stand_side_by_side(tmp_path):
    names = ["openai-community/gpt2", run(tmp_path / "mine")]
    assert labels(names) == ["openai-community/gpt2", "mine"]


@pytest.mark.parametrize("record", ["{", "[]", '{"overrides": 3}', '{"overrides": [3]}', "null"])
def test_a_foreign_record_leaves_a_name_without_changes(tmp_path, record):
    names = [run(tmp_path / "a", "seed=1"), run(tmp_path / "b", "seed=2")]
    (tmp_path / "b" / "run.json").write_text(record)
    assert labels(names) == ["a", "b"]


def test_many_changes_are_cut(tmp_path):
    names = [run(tmp_path / "a", "s=0"), run(tmp_path / "b", *(f"x.k{i}={i}" for i in range(9)))]
    assert labels(names)[1] == "k0=0 k1=1 k2=2 … (b)"


def test_a_folder_named_twice_is_one_model(tmp_path, monkeypatch):
    name = run(tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    assert first_names([name, "a/model", "./a/model"]) == dict.fromkeys(
        [name, "a/model", "./a/model"], name
    )
