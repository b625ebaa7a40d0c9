"""What is known of a model before it is judged."""

import json
from dataclasses import replace

import pytest

from src.data.report import RowReport
from src.data.sources import open_source
from src.errors import UserError
from src.evaluation.candidates import Candidate, find_candidates
from src.model.weights_file import WEIGHTS
from src.talk.model_folder import save_model_folder
from src.training.plan import flat
from tests.conftest import greedy
from tests.model.conftest import random_model, tiny_config


@pytest.fixture
def file_config(data_config, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        "".join(json.dumps({"prompt": f"p{i}", "response": "r"}) + "\n" for i in range(300))
    )
    return data_config(
        source="file", path=str(rows), test_fraction=0.1, validation_fraction=0.1, max_rows=None
    )


def prompts(config, split: str) -> set[str]:
    found = open_source(config).conversations(RowReport())
    return {c.turns[0][0] for name, c in found if name == split}


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("test_fraction", [0.05, 0.1, 0.15, 0.3])
def test_rows_that_a_run_may_have_learned_from_are_told(
    file_config, data_config, tmp_path, split, test_fraction, monkeypatch
):
    """By the settings alone, and as the splits themselves say."""
    model = Candidate("a", tmp_path, None, flat({"data": vars(file_config)}))
    asked = replace(file_config, test_fraction=test_fraction)
    overlap = prompts(file_config, "train") & prompts(asked, split)
    assert model.may_have_learned(asked, split) == bool(overlap)
    monkeypatch.chdir(tmp_path)
    assert model.may_have_learned(replace(asked, path="rows.jsonl"), split) == bool(overlap)
    assert not model.may_have_learned(replace(asked, path="other.jsonl"), split)
    assert not replace(model, settings={}).may_have_learned(asked, split)


def test_a_model_without_its_weights_is_refused_before_others_are_judged(tokenizer, tmp_path):
    model = random_model(tiny_config(vocab_size=tokenizer.vocab_size))
    save_model_folder(tmp_path, model, tokenizer, greedy(4))
    assert [each.name for each in find_candidates([str(tmp_path)])] == [str(tmp_path)]
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(UserError, match=rf"model_path={tmp_path}: no weights in it"):
        find_candidates([str(tmp_path)])
