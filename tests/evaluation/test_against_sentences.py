"""What is said of policies: no more than their prompts show."""

from math import nan

import numpy as np
import pytest

from src.evaluation.against import Against, Question
from src.evaluation.best_of import BestOf, best_of, mean
from src.evaluation.frontier import _frontier, pictures
from src.evaluation.intervals import Interval
from src.evaluation.length_control import length_controlled
from src.evaluation.policies import Policies, Policy

QUESTION = Question("sft", None, 0, "gold", 2000, 1)


def policy(points, alike=None, longer_by=None):
    points = np.array(points, dtype=float)
    columns = {"win_rate": mean(points, is_share=True), "kl": mean(np.ones(len(points)))}
    if alike is not None:
        like = np.where(np.array(alike), points, nan)
        columns["win_rate_like_length"] = mean(like, is_share=True)
    if longer_by is not None:
        columns["win_rate_length_controlled"] = length_controlled(points, np.array(longer_by))
    texts = [""] * len(points)
    return Policy(columns, texts, texts)


def sentences(**policies):
    count = len(next(iter(policies.values())).sampled)
    by_name = {"sft": Policy({"gold": mean(np.ones(count))}, [""] * count, [""] * count)}
    found = Policies("sft", "gold", by_name | policies, [], count, 0, count)
    figures = found.figures(2000, 1)
    against = Against(QUESTION, found, figures, found.certain_wins(2000, 1), {})
    assert set(against.results()["num_like_length"]) == set(policies)
    return dict(zip(policies, against.sentences(), strict=True))


def test_few_pairs_of_like_length_are_not_spoken_of():
    points = [1.0, 0.0] * 30
    one = [True] + [False] * 59
    said = sentences(ppo=policy(points, one))["ppo"]
    assert "like length" not in said
    said = sentences(ppo=policy(points, [True] * 12 + [False] * 48))["ppo"]
    assert "of replies of like length 50.0% (" in said
    assert "in 12 prompts; 1.00 nats" in said


@pytest.mark.parametrize("points", [[1.0], [1.0, 0.0], [0.5]])
def test_no_sentence_says_nan(points):
    said = sentences(ppo=policy(points, [True] + [False] * (len(points) - 1)))["ppo"]
    assert "nan" not in said
    assert "too few prompts" in said
    if len(points) == 1:
        assert f"{100 * points[0]:.1f}% of 1 prompts" in said


def test_the_length_controlled_share_is_said():
    points = [1.0, 1.0, 0.0] * 20
    said = sentences(ppo=policy(points, longer_by=list(range(60))))["ppo"]
    assert "; length-controlled 6" in said


def test_one_policy_of_many_is_not_better_by_chance():
    """60 of 96 are beyond a half at 95%, and not where ten such claims are made."""
    near = [1.0] * 60 + [0.0] * 36
    even = [1.0, 0.0] * 48
    assert "it is better" in sentences(ppo=policy(near))["ppo"]
    many = {f"other{i}": policy(even) for i in range(9)}
    said = sentences(ppo=policy(near), **many)
    assert "do not show which is better" in said["ppo"]
    assert "it is better" in sentences(ppo=policy([1.0] * 75 + [0.0] * 21), **many)["ppo"]
    worse = [1.0 - point for point in near]
    assert "it is worse" in sentences(ppo=policy(worse))["ppo"]
    assert "it is worse" not in sentences(ppo=policy(worse), **many)["ppo"]


def test_shares_of_the_best_of_n_are_shares():
    class Pool:
        proxy = np.tile([0.0, 1.0], 30)
        gold = np.full(60, 3.0)
        perfect = np.ones(60)
        right = np.zeros(60)

    found = best_of(Pool(), 2, np.zeros(30))
    policies = Policies("sft", "gold", {}, [BestOf(b.n, b.columns) for b in found], 30, 0, 30)
    best = policies.best_of_figures(1000, 1)[2]
    for name, value in (("perfect", 1.0), ("right", 0.0), ("win_rate", 1.0)):
        assert best[name].value == value
        assert best[name].high - best[name].low > 0.1, name
    assert best["gold"].high == best["gold"].low == 3.0


def points_of(*names):
    return [
        (f"at {x}", {"kl": Interval(x, x, x)} | {n: Interval(x + 5, x, x + 9) for n in names})
        for x in (0.0, 1.0)
    ]


def test_what_has_scales_of_its_own_has_a_panel_of_its_own():
    figure = _frontier(points_of("gold", "proxy"), [], "the judge")
    labels = [axes.get_ylabel() for axes in figure.axes]
    assert labels == ["the judge's opinion, mean", "reward model's opinion, mean"]
    assert len(_frontier(points_of("proxy"), [], "the judge").axes) == 1
    assert pictures(dict(points_of("kl")), "at 0.0", {}, "the judge") == {}
