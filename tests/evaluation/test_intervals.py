"""Intervals hold what they say, figures are those of the libraries, differences are paired."""

import math
import time

import numpy as np
import pytest

from src.evaluation.figures import Columns, ratio, written
from src.evaluation.intervals import Interval, figure_interval, interval, resample


def rows_of_a_model(rng: np.random.Generator, num_rows: int) -> Columns:
    """Losses and token counts: lengths differ, and long rows are hard."""
    counts = rng.integers(1, 60, num_rows)
    losses = counts * (1.5 + 0.01 * counts + 0.4 * rng.standard_gamma(1.0, num_rows))
    return ratio(losses, counts)


def test_95_of_100_intervals_hold_the_true_figure():
    counts = np.arange(1, 60)
    truth = (counts * (1.5 + 0.01 * counts + 0.4)).sum() / counts.sum()
    rng, held, num_trials = np.random.default_rng(0), 0, 250
    for trial in range(num_trials):
        columns = rows_of_a_model(rng, 150)
        found = figure_interval(columns, resample({"loss": columns}, 1000, trial)["loss"])
        held += found.low <= truth <= found.high
    assert 0.90 <= held / num_trials <= 0.98


def test_95_of_100_intervals_hold_a_true_difference_and_pairing_makes_them_narrow():
    rng, held, num_trials, widths = np.random.default_rng(1), 0, 250, []
    for trial in range(num_trials):
        first = rows_of_a_model(rng, 120)
        counts = first.values[:, 1]
        second = ratio(first.values[:, 0] + counts * (0.05 + 0.05 * rng.normal(size=120)), counts)
        draws = resample({"a": first, "b": second}, 1000, trial)
        found = interval(second.figure() - first.figure(), draws["b"] - draws["a"])
        held += found.low <= 0.05 <= found.high
        alone = interval(first.figure(), draws["a"])
        widths.append((found.high - found.low) / (alone.high - alone.low))
    assert 0.90 <= held / num_trials <= 0.98
    assert np.mean(widths) < 0.3


def test_no_difference_is_claimed_in_95_of_100_cases_where_there_is_none():
    rng, claimed, num_trials = np.random.default_rng(2), 0, 250
    for trial in range(num_trials):
        first = rows_of_a_model(rng, 120)
        counts = first.values[:, 1]
        second = ratio(first.values[:, 0] + counts * 0.1 * rng.normal(size=120), counts)
        draws = resample({"a": first, "b": second}, 1000, trial)
        found = interval(second.figure() - first.figure(), draws["b"] - draws["a"])
        claimed += found.low > 0 or found.high < 0
    assert 0.02 <= claimed / num_trials <= 0.10


def test_the_draws_are_those_of_their_seed_and_belong_together():
    columns = {"a": ratio(np.arange(50), np.ones(50)), "b": ratio(np.arange(50) + 1, np.ones(50))}
    draws = resample(columns, 1000, 3)
    np.testing.assert_allclose(draws["b"] - draws["a"], 1.0)
    np.testing.assert_array_equal(resample(columns, 1000, 3)["a"], draws["a"])
    assert not np.array_equal(resample(columns, 1000, 4)["a"], draws["a"])


def test_many_rows_and_figures_take_seconds():
    rng = np.random.default_rng(0)
    columns = {str(i): ratio(rng.random(50_000), np.ones(50_000)) for i in range(20)}
    start = time.process_time()
    draws = resample(columns, 1000, 0)
    assert time.process_time() - start < 30  # 3 s on an idle core
    assert np.std(draws["0"]) == pytest.approx(math.sqrt(1 / 12 / 50_000), rel=0.2)


@pytest.mark.parametrize(
    ("value", "low", "high"), [(1.0, 0.025 ** (1 / 40), 1.0), (0.0, 0.0, 1 - 0.025 ** (1 / 40))]
)
def test_a_share_without_exceptions_has_an_exact_interval(value, low, high):
    columns = ratio(np.full(40, value), np.ones(40), is_share=True)
    found = figure_interval(columns, resample({"x": columns}, 1000, 0)["x"])
    assert found == pytest.approx((value, low, high))


def test_one_row_has_no_interval_and_no_row_no_figure():
    one = ratio(np.array([2.0, 0.0]), np.array([1.0, 0.0]))
    found = figure_interval(one, resample({"x": one}, 1000, 0)["x"])
    assert found.value == 2.0
    assert math.isnan(found.low)
    none = ratio(np.zeros(3), np.zeros(3))
    assert math.isnan(figure_interval(none, resample({"x": none}, 1000, 0)["x"]).value)


def test_a_row_that_is_not_finite_spoils_its_own_figure_alone():
    bad = ratio(np.array([1.0, math.nan, 2.0]), np.ones(3))
    good = ratio(np.array([1.0, 3.0, 2.0]), np.ones(3))
    draws = resample({"bad": bad, "good": good}, 1000, 0)
    assert math.isnan(figure_interval(bad, draws["bad"]).value)
    assert math.isnan(figure_interval(bad, draws["bad"]).low)
    assert figure_interval(good, draws["good"]).value == 2.0
    assert Interval(math.nan, -math.inf, 1.0).json() == {"value": None, "low": None, "high": 1.0}


def test_figures_are_written_for_people():
    assert written("loss", 1.23456) == "1.2346"
    assert written("accuracy", 0.5888) == "58.88%"
    assert written("perplexity", 1e300) == "1e+300"
    assert written("loss", math.nan) == "-"
