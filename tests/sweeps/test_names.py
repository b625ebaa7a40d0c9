"""The folders of a sweep have short names that every file system takes."""

import re

import pytest

from src.sweeps.names import folder_names, short_keys, spelling, value_text

LR, BS = "optimizer.learning_rate", "batch_size"


def test_a_name_says_what_was_swept():
    runs = [{LR: lr, BS: bs} for lr in (5e-3, 6e-5) for bs in (8, 16)]
    assert folder_names(runs) == ["lr5e-3_bs8", "lr5e-3_bs16", "lr6e-5_bs8", "lr6e-5_bs16"]
    assert folder_names([{"seed": 1}, {"seed": 2}]) == ["seed1", "seed2"]
    assert folder_names([{"data": "sample"}]) == ["data-sample"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.005, "5e-3"),
        (2.5e-4, "2.5e-4"),
        (0.1, "0.1"),
        (0.01, "0.01"),
        (1.0, "1"),
        (-0.00012345, "-1.2345e-4"),
        (1e30, "1e30"),
        (1 / 3, "0.3333333333333333"),
        (1024, "1024"),
        (0.0, "0"),
        (True, "true"),
        (None, "null"),
        ([0.9, 0.95], "0.9-0.95"),
        (float("nan"), "nan"),
    ],
)
def test_a_value_is_written_short(value, text):
    assert value_text(value) == text


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([5e-4, 0.0025, 0.01], ["5e-4", "2.5e-3", "1e-2"]),
        ([0.1, 0.25, 0.0], ["0.1", "0.25", "0"]),
        ([1e-5, 0, 1, None, "x"], ["1e-5", "0", "1e0", "null", "x"]),
        ([True, False], ["true", "false"]),
        ([4, 1024], ["4", "1024"]),
    ],
)
def test_values_of_a_column_have_one_spelling(values, texts):
    assert list(map(spelling(values), values)) == texts
    names = folder_names([{LR: value} for value in (5e-4, 0.0025)])
    assert names == ["lr5e-4", "lr2.5e-3"]


@pytest.mark.parametrize(
    "value",
    ["a=b,c", "a b/c\\d", "数" * 300, "../..", "CON", "x\"y'z", "-", ".", "", "\n", "x" * 300, "ä"],
)
def test_any_value_gives_a_name_that_every_file_system_takes(value):
    names = folder_names([{"data.path": value}, {"data.path": f"{value}2"}, {"data.path": value}])
    assert len(set(names)) == 3
    for name in names:
        assert re.fullmatch(r"[a-z0-9][a-z0-9._+-]{0,79}", name)
        assert not name.endswith(".")


def test_names_that_differ_in_large_letters_only_are_not_alike():
    first, second = folder_names([{"model.pretrained": "GPT2"}, {"model.pretrained": "gpt2"}])
    assert first.lower() != second.lower()


def test_keys_with_the_same_end_are_told_apart():
    found = short_keys(["lora.dropout", "model.dropout", LR])
    assert found == {"lora.dropout": "lora.dropout", "model.dropout": "model.dropout", LR: "lr"}


def test_runs_that_differ_in_nothing_have_names_all_the_same():
    assert folder_names([{}, {}]) == ["run", "run_2"]
    assert folder_names([]) == []
