"""A run whose validations no longer get better ends early, and is finished."""

import logging

import pytest

from src.errors import UserError
from src.training.best import BestModel
from src.training.objective import Best
from tests.faults.sameness import points
from tests.objectives.test_objective import SMOOTHED, smoothed  # noqa: F401
from tests.training.conftest import curves, metrics
from tests.training.test_resume import LAYOUT, Killed, assert_same_run, kill_at

# Of 24 steps, validated every 4: the best after step 4, none better at 8 and 12.
PATIENT = (*LAYOUT, "max_steps=24", "trainer.val_every_n_steps=4", "trainer.patience=2")
FIGURES = {0: 5.0, 4: 1.0, 8: 3.0, 12: 2.0, 16: 0.5, 20: 4.0, 24: 4.0}


def validated_as(monkeypatch, figures, key="val/loss"):
    original = BestModel.on_validation_end

    def hook(self, trainer, module):
        module.latest[key] = figures[trainer.global_step]
        original(self, trainer, module)

    monkeypatch.setattr(BestModel, "on_validation_end", hook)


def test_it_ends_when_patience_does_and_resumed_it_ends_the_same(quick_run, monkeypatch, caplog):
    validated_as(monkeypatch, FIGURES)
    with caplog.at_level(logging.INFO):
        whole = quick_run(*PATIENT, folder="whole")
    assert "ends early after 2 validations in a row without a better figure" in caplog.text
    assert "ended early, after step 12 of 24: no validation since step 4 was better" in caplog.text
    figures = metrics(whole)
    assert (figures["num_steps"], figures["planned_steps"], figures["best_step"]) == (12, 24, 4)
    assert max(curves(whole)["train/loss"]) == 12
    # The learning rate is that of the whole plan: far from its end.
    assert curves(whole)["lr"][12] > 0.5 * max(curves(whole)["lr"].values())

    def die(self, last):
        raise Killed

    with monkeypatch.context() as patch:  # after the last step, before it is scored
        patch.setattr("src.training.run.Run._finish", die)
        with pytest.raises(Killed):
            quick_run(*PATIENT, folder="killed")
    assert_same_run(quick_run(*PATIENT, "resume=auto", folder="killed"), whole)
    assert points(whole.parent / "killed") == points(whole)


def test_a_run_killed_between_two_bad_validations_counts_both(quick_run, monkeypatch):
    validated_as(monkeypatch, FIGURES)
    with monkeypatch.context() as patch:
        kill_at(patch, 10, "on_train_batch_end")
        with pytest.raises(Killed):
            quick_run(*PATIENT, folder="killed")
    assert metrics(quick_run(*PATIENT, "resume=auto", folder="killed"))["num_steps"] == 12


def test_where_more_is_better_it_waits_for_more(smoothed, quick_run, monkeypatch):  # noqa: F811
    validated_as(monkeypatch, {0: 0.1, 4: 0.5, 8: 0.4, 12: 0.3}, "val/accuracy")
    run = quick_run(*PATIENT, *SMOOTHED)
    assert (metrics(run)["num_steps"], metrics(run)["best_step"]) == (12, 4)


def test_a_better_figure_begins_the_count_anew():
    best = BestModel(None, Best("val/loss"), None, None, rank=0, patience=2)
    best.history, best.best = [(0, 5.0), (4, 6.0), (8, 4.0), (12, 7.0)], {"step": 8}
    assert (best.num_in_vain, best.is_over) == (1, False)
    best.history.append((16, 4.0))  # as good is not better
    assert best.is_over
    again = BestModel(None, Best("val/loss"), None, None, rank=0, patience=2)
    again.load_state_dict(best.state_dict())
    assert again.is_over
    assert not BestModel(None, Best("val/loss"), None, None, rank=0).is_over


def test_without_validation_rows_there_is_nothing_to_be_patient_about(quick_run):
    with pytest.raises(UserError, match=r"trainer\.patience=3 counts validations, and there are"):
        quick_run("data.validation_fraction=0", "trainer.patience=3")
