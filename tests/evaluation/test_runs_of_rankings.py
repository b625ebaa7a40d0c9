"""Rows that models are held against, where a run learned from rankings."""

import json

import pytest

from src.errors import UserError
from src.evaluation.runs import first_of_conversations


def test_the_rows_are_those_of_a_run_that_learned_from_conversations(tmp_path):
    folders = {}
    for name in ("dpo", "reward", "sft"):
        folders[name] = tmp_path / name / "model"
        folders[name].mkdir(parents=True)
        record = {"settings": {"objective.name": name}}
        (tmp_path / name / "run.json").write_text(json.dumps(record))
    assert first_of_conversations(folders) == "sft"
    del folders["sft"]
    with pytest.raises(UserError, match=r"model_path=dpo: .* rankings.* prompts=FILE"):
        first_of_conversations(folders)
