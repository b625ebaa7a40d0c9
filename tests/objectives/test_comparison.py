"""Another run stands beside this one: figures by its own average, answers where they are known."""

import logging

import pytest

from src.objectives.comparison import comparison_lines
from src.objectives.reply_table import Answered
from src.talk.messages import Message
from src.training.config import ReferenceConfig
from tests.training.conftest import curves, metrics, quick_run, small_run, train_config  # noqa: F401
from tests.training.test_resume import LAYOUT, Killed, assert_same_run, kill_at

REFERENCE = (
    "reference={name: their run, loss: 1.5, accuracy: 0.5, seconds: 3400, steps: 12, "
    "average_over: 5, replies_before: {}, replies: {Who are you?: A model.}}"
)


def test_the_figures_are_means_over_the_last_steps_and_survive_a_kill(
    quick_run,  # noqa: F811
    monkeypatch,
    caplog,
):
    """Logged at every 4 steps, in micro-batches: it looks at each step all the same."""
    whole = quick_run(*LAYOUT, REFERENCE, folder="whole")
    each = quick_run(*LAYOUT, "trainer.log_every_n_steps=1", folder="each")
    for name in ("loss", "accuracy"):
        points = curves(each)[f"train/{name}"]
        last = [points[step] for step in range(8, 13)]
        assert metrics(whole)[f"last_train/{name}"] == pytest.approx(sum(last) / 5, rel=1e-4)
    assert metrics(whole)["last_train/num_steps"] == 5
    with monkeypatch.context() as patch:
        kill_at(patch, 11, "on_train_batch_end")
        with pytest.raises(Killed):
            quick_run(*LAYOUT, REFERENCE, folder="killed")
    with caplog.at_level(logging.INFO):
        resumed = quick_run(*LAYOUT, REFERENCE, "resume=auto", folder="killed")
    assert_same_run(resumed, whole)
    assert "beside their run, whose figures are means over its last 5 training steps" in caplog.text
    assert "their run   train loss 1.5000   train accuracy 50.00%   12 steps in 3,400 s" in (
        caplog.text
    )
    assert "its model:            A model." in caplog.text


ROWS = [
    Answered([Message("user", "Who are you?")], "", "I am\na model. " * 20, None),
    Answered([Message("user", "What is new?")], "", "Nothing.", None),
    Answered([Message("user", "Who are you?")], "", "Ours.", "A row of the test split."),
]
FIGURES = {
    **{"last_train/loss": 1.7, "last_train/accuracy": 0.58, "last_train/num_steps": 100},
    **{"num_steps": 4000, "train_seconds": 212.3},
}


def test_answers_that_are_not_known_are_not_shown():
    reference = ReferenceConfig("theirs", 1.5, 0.5, 3400.0, 4000, 100, {}, {"Who are you?": "Me."})
    lines = comparison_lines(reference, FIGURES, ROWS)
    assert "this run   train loss 1.7000   train accuracy 58.00%   4,000 steps in 212 s" in lines
    assert sum("Who are you?" in line for line in lines) == 1
    assert any(line.startswith("  its model:            Me.") for line in lines)
    assert not any("What is new?" in line for line in lines)
    assert all(len(line) <= 100 for line in lines)
    assert not any("equal length" in line for line in lines)
    shorter = comparison_lines(reference, FIGURES | {"num_steps": 20}, ROWS)
    assert any("equal length" in line for line in shorter)
    assert comparison_lines(None, FIGURES, ROWS) == []
    assert comparison_lines(reference, {}, ROWS) == []


@pytest.mark.parametrize(
    ("name", "loss", "accuracy", "steps"),
    [("2080ti", 1.8556, 0.5847, 12000), ("a100", 1.7333, 0.5888, 4000)],
)
def test_the_articles_runs_are_compared_with_what_it_says(name, loss, accuracy, steps):
    config = train_config(f"experiment=article_{name}")
    reference = config.reference
    assert (reference.loss, reference.accuracy, reference.average_over) == (loss, accuracy, 100)
    assert reference.steps == config.max_steps == steps
    assert config.data.validation_fraction == 0  # it learned from all rows
    assert {*reference.replies_before, *reference.replies} <= {*config.sample_prompts}
