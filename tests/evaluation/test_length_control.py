"""The win rate at equal length: what is left of a win where longer replies win."""

import numpy as np
import pytest

from src.evaluation.figures import FORMS
from src.evaluation.intervals import figure_interval, resample
from src.evaluation.length_control import _fit, length_controlled


def drawn(num_rows, level, slope):
    """Wins by a law that is known; lengths that differ by 20 tokens more than not."""
    rng = np.random.default_rng(0)  # of its own: the same whatever tests came before
    longer_by = rng.normal(20, 30, num_rows).round()
    length = np.tanh(longer_by / longer_by.std())
    wins = rng.random(num_rows) < 1 / (1 + np.exp(-level - slope * length))
    return wins.astype(float), longer_by


def test_a_policy_that_is_longer_and_no_better_wins_half():
    points, longer_by = drawn(20_000, 0.0, 2.0)
    assert points.mean() > 0.65
    assert length_controlled(points, longer_by).figure() == pytest.approx(0.5, abs=0.02)


def test_a_better_policy_keeps_what_is_not_of_length():
    points, longer_by = drawn(20_000, 0.7, 1.0)
    expected = 1 / (1 + np.exp(-0.7))
    assert length_controlled(points, longer_by).figure() == pytest.approx(expected, abs=0.02)
    flipped = length_controlled(1 - points, -longer_by).figure()
    assert flipped == pytest.approx(1 - length_controlled(points, longer_by).figure())


def test_replies_of_one_length_leave_the_win_rate_and_a_tie():
    points = np.array([1.0] * 12 + [0.0] * 5 + [0.5] * 3)
    found = length_controlled(points, np.full(20, 7))
    assert found.figure() == pytest.approx((points.sum() + 0.5) / 21)


def test_the_fit_is_the_likeliest():
    points, longer_by = drawn(200, 0.4, 1.5)
    features = np.stack([np.ones(200), np.tanh(longer_by / longer_by.std())], axis=1)
    level, _ = _fit(features, points)

    def cost(weights):
        scores = np.concatenate([features @ weights, weights])
        targets = np.concatenate([points, [0.5, 0.5]])
        return np.sum(np.logaddexp(0, scores) - targets * scores)

    slopes = np.linspace(-4, 4, 4001)
    least = [min(cost(np.array([a, s])) for s in slopes) for a in (level - 0.1, level, level + 0.1)]
    assert least[1] < min(least[0], least[2])


def test_its_interval_is_that_of_fits_to_rows_drawn_again():
    points, longer_by = drawn(150, 0.5, 1.5)
    columns = length_controlled(points, longer_by)
    found = figure_interval(columns, resample({"x": columns}, 2000, 1)["x"])
    rng = np.random.default_rng(2)
    again = []
    for _ in range(600):
        rows = rng.integers(150, size=150)
        again.append(length_controlled(points[rows], longer_by[rows]).figure())
    assert found.low == pytest.approx(np.quantile(again, 0.025), abs=0.02)
    assert found.high == pytest.approx(np.quantile(again, 0.975), abs=0.02)
    assert 0 < found.low < found.value < found.high < 1


def test_prompts_that_nobody_judged_count_nothing():
    points, longer_by = drawn(100, 0.3, 1.0)
    known = length_controlled(points, longer_by)
    more = length_controlled(np.append(points, np.nan), np.append(longer_by, 10_000))
    assert more.figure() == pytest.approx(known.figure())
    assert not more.used[-1]


@pytest.mark.parametrize("points", [[1.0] * 30, [0.0] * 30, [0.5] * 30, [1.0] * 29 + [0.0]])
def test_where_all_end_alike_there_is_no_fit(points):
    found = length_controlled(np.array(points), np.arange(30) - 10)
    assert not found.used.any()
    assert np.isnan(found.figure())


def test_where_length_tells_every_win_there_is_one():
    longer_by = np.arange(-20, 21)
    found = length_controlled((longer_by > 0).astype(float), longer_by)
    assert np.isfinite(found.values).all()
    assert found.figure() == pytest.approx(0.5, abs=0.1)


def test_far_sums_are_shares():
    assert FORMS["logistic"](np.array([[-1e6, 1.0], [1e6, 1.0]])).tolist() == [0.0, 1.0]
