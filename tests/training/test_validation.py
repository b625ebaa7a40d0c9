"""Validation is bounded: below a tenth of training, on rows that are always the same."""

import json
import logging
import re
from functools import cache
from itertools import product

import pytest

from src import phases
from src.errors import UserError
from src.training.validation import Validations, as_recorded, cost, decide_validations
from tests.training.conftest import curves, metrics, train_config

HOUR = "an_hour"  # a phase

# The quickstart's blocks: each step has four, and 330 are validated.
QUICKSTART = {"num_blocks": 330, "num_learned": 4 * 4200}


config_of = cache(train_config)  # to compose one takes a tenth of a second


def decided(*overrides: str, **figures) -> Validations:
    values = {"num_blocks": 100_000, "every": 100, "num_steps": 1000, "num_learned": 32_000}
    return decide_validations(config_of(*overrides), **values | figures)


@pytest.mark.parametrize("how", [(), ("lora.rank=8",), ("trainer.activation_checkpointing=true",)])
def test_all_validations_together_stay_below_a_tenth_of_training(how):
    for every, num_steps, size in product((1, 7, 100, 5000), (4, 60, 1001, 40_000), (4, 32)):
        found = decided(*how, every=every, num_steps=num_steps, num_learned=num_steps * size)
        of_one = found.num * cost(config_of(*how)) / (num_steps * size)
        assert found.share == pytest.approx(of_one * found.max_blocks)
        assert found.share <= 0.1 or found.max_blocks == 1  # a figure there is in any case
        assert of_one * (found.max_blocks + 1) > 0.1


@pytest.mark.parametrize(
    ("every", "num_steps", "num"), [(5, 12, 4), (5, 10, 3), (100, 4, 2), (1, 4, 5), (1050, 4200, 5)]
)
def test_the_first_and_the_last_validation_are_counted(every, num_steps, num):
    assert decided(every=every, num_steps=num_steps).num == num


def test_a_pass_is_a_third_of_a_step():
    assert cost(config_of()) == pytest.approx(1 / 3)
    assert cost(config_of("lora.rank=8")) == pytest.approx(1 / 2)
    assert cost(config_of("trainer.activation_checkpointing=true")) == pytest.approx(1 / 4)


def test_where_all_blocks_are_little_all_are_scored():
    found = decided("experiment=quickstart", every=1050, num_steps=4200, **QUICKSTART)
    assert found.max_blocks is None
    assert found.share < 0.04


def test_a_person_decides_otherwise():
    assert decided("trainer.max_val_blocks=40").max_blocks == 40
    assert decided("trainer.max_val_blocks=40", num_blocks=40).max_blocks is None
    assert decided("trainer.max_val_blocks=null").max_blocks is None
    whole = decided("trainer.max_val_blocks=null", num_steps=10, every=1, num_learned=320)
    assert whole.share > 100
    assert decided(num_blocks=0) == Validations(0, None, 0.0)
    for value in (0, -1, "some", 1.5):
        with pytest.raises(Exception, match=r"max_val_blocks|at least 1"):
            train_config(f"trainer.max_val_blocks={value}")


def test_a_run_that_goes_on_is_validated_as_it_was():
    auto = config_of()
    assert as_recorded(auto, {"trainer.max_val_blocks": 7}).trainer.max_val_blocks == 7
    assert as_recorded(auto, {"trainer.max_val_blocks": None}).trainer.max_val_blocks is None
    assert as_recorded(auto, {}).trainer.max_val_blocks is None, "earlier versions scored all"
    asked = config_of("trainer.max_val_blocks=9")
    assert as_recorded(asked, {"trainer.max_val_blocks": 7}) == asked
    with pytest.raises(UserError, match=r"trainer\.max_val_blocks=-3"):
        as_recorded(auto, {"trainer.max_val_blocks": -3})


# Runs of seconds: 12 steps of 8 blocks, validated four times: auto takes 7 blocks of some 50.


@pytest.fixture
def bounded(small_run, caplog):
    def run(*overrides: str, folder: str = "run"):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            return small_run("trainer.max_val_blocks=auto", *overrides, folder=folder), caplog.text

    return run


def test_what_auto_decided_is_said_recorded_and_true_again_on_resume(bounded, monkeypatch):
    from tests.training.test_resume import Killed, kill_at

    run, text = bounded("trainer.max_test_blocks=2", "seed=3")
    found = re.search(
        r"validation (\d+) of (\d+) blocks \((\d+) random rows.*4 times: about (\S+)%", text
    )
    blocks, whole, rows, share = found.groups()
    assert int(blocks) == 7 < int(whole)
    assert 8 < float(share) <= 10
    record = json.loads((run / "run.json").read_text())
    assert record["config"]["trainer"]["max_val_blocks"] == "auto"
    assert record["settings"]["trainer.max_val_blocks"] == 7
    figures = metrics(run)
    assert figures["val/num_rows"] == int(rows)
    assert 0 < figures["val/num_scored_tokens"] < 7 * 64
    assert re.search(r"test       2 of \d+ blocks", text)
    assert figures["test/num_scored_tokens"] < 2 * 64
    passed = {key: value for key, value in figures.items() if key.startswith("seconds/")}
    assert "took " in text
    assert {"seconds/validation", "seconds/training", "seconds/test"} <= passed.keys()

    with monkeypatch.context() as patch:
        kill_at(patch, 8, "on_train_batch_end")
        with pytest.raises(Killed):
            bounded("trainer.max_test_blocks=2", "seed=4", folder="killed")
    record = json.loads((run.parent / "killed" / "run.json").read_text())
    earlier, add = [], phases.add
    with monkeypatch.context() as patch:
        patch.setattr(phases, "add", lambda passed: earlier.append(passed) or add({HOUR: 3600.0}))
        resumed, text = bounded(
            "trainer.max_test_blocks=2", "seed=4", "resume=auto", folder="killed"
        )
    assert f"validation {blocks} of {whole} blocks ({rows} random rows" in text
    again = metrics(resumed)
    for key in ("val/num_rows", "val/num_scored_tokens", "test/num_rows"):
        assert again[key] == figures[key], "another seed, and the same rows"
    assert len(curves(resumed)["val/loss"]) == 4
    assert earlier[0]["training"] > 0
    assert again[f"seconds/{HOUR}"] == 3600, "the part before the kill counts too"
    record["settings"]["trainer.max_val_blocks"] = 5
    (resumed / "run.json").write_text(json.dumps(record))
    (resumed / "metrics.json").unlink()
    _, text = bounded("trainer.max_test_blocks=2", "seed=4", "resume=auto", folder="killed")
    assert f"validation 5 of {whole} blocks" in text
