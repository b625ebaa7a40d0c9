"""Sentences about a run that went wrong are said where they are true, and only there."""

import pytest

from src.objectives.sft import SFTModule, perplexity_text, split_lines
from src.training.objective import Best
from src.training.verdict import verdict

LOSS, ACCURACY = Best("val/loss"), Best("val/accuracy", lower_is_better=False)
IN_VAIN, BY_HEART = "no step was better than the weights it began with", "by heart"
FLAT, LITTLE, ALL_ALONG = "stayed at", "next to nothing", "rose all along"


@pytest.mark.parametrize(
    ("values", "chosen_by", "said"),
    [
        ([4.0, 3.0, 2.0], LOSS, []),
        ([4.0, 2.0, 2.001], LOSS, []),  # no difference to speak of
        ([2.0, 3.0, 4.0], LOSS, [IN_VAIN, ALL_ALONG]),
        ([2.0, 4.0, 3.0], LOSS, [IN_VAIN]),
        ([2.0, 4.0], LOSS, [IN_VAIN]),
        ([2.0, 2.0, 2.0], LOSS, [FLAT]),
        ([2.0, 1.9999, 1.9998], LOSS, [LITTLE]),
        ([4.0, 1.0, 3.0, 5.0], LOSS, [BY_HEART, "rose from 1.0000 to 5.0000"]),
        ([0.1, 0.5, 0.3], ACCURACY, ["fell from 0.5000 to 0.3000"]),  # one validation may be chance
        ([0.1, 0.5, 0.3, 0.2], ACCURACY, [BY_HEART, "fell from 0.5000 to 0.2000"]),
        ([0.5, 0.4, 0.3], ACCURACY, [IN_VAIN, "fell all along"]),
        ([0.1, 0.2, 0.3], ACCURACY, []),
        ([2.0], LOSS, []),
    ],
)
def test_what_is_said_is_true(values, chosen_by, said):
    history = [(200 * number, value) for number, value in enumerate(values)]
    choose = min if chosen_by.lower_is_better else max
    best = 200 * values.index(choose(values))
    text = "\n".join(verdict(history, best, chosen_by))
    for words in said:
        assert words in text
    for words in {IN_VAIN, BY_HEART, FLAT, LITTLE, ALL_ALONG} - {*said}:
        assert words not in text
    assert ("trainer.patience" in text) == ("best at step" in text)
    assert "trainer.patience" not in "".join(verdict(history, best, chosen_by, ended_early=True))
    if BY_HEART in said:
        assert f"best at step 200 of {200 * (len(values) - 1)}" in text


def figures_of(loss):
    module = SFTModule.__new__(SFTModule)
    sums = {"loss": loss * 10, "num_correct": 5, "num_supervised": 10}
    return SFTModule.figures(module, sums)


def test_the_lines_say_what_was_scored_and_at_which_step():
    figures = {
        **{f"val/{name}": value for name, value in figures_of(800.0).items()},
        **{f"best_val/{name}": value for name, value in figures_of(1.0).items()},
        **{f"test/{name}": value for name, value in figures_of(12.0).items()},
        **{"num_steps": 1000, "best_step": 200},
    }
    last, best, test = split_lines(figures, {})
    assert last.startswith("validation, last (step 1,000)   loss 800.0000")
    assert last.endswith("perplexity over 10^9")
    assert best.startswith("validation, best (step 200)     loss 1.0000")
    assert best.endswith("perplexity 2.72")
    assert test.endswith("perplexity 162,754.79")
    assert all(len(line) <= 100 for line in (last, best, test))
    assert split_lines({}, {}) == []


def test_the_lines_say_on_how_few_rows_where_not_on_all():
    figures = {f"{prefix}/{k}": v for prefix in ("val", "test") for k, v in figures_of(2.0).items()}
    figures |= {"num_steps": 10, "val/num_rows": 40, "test/num_rows": 1118}
    rows = {"train": 9000, "validation": 900, "test": 1120}
    assert split_lines(figures, rows)[-1] == (
        "measured: validation on 40 of its 900 rows, test on 1,118 of its 1,120 rows"
    )
    assert len(split_lines(figures, {"validation": 40, "test": 1118})) == 2


def test_a_perplexity_is_finite_and_no_longer_than_it_is_worth():
    assert figures_of(1e6)["perplexity"] == pytest.approx(1e9)
    assert perplexity_text(figures_of(1e6)["perplexity"]) == "over 10^9"
    assert perplexity_text(figures_of(0.0)["perplexity"]) == "1.00"
