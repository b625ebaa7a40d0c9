"""A setting against the baseline, over seeds and rows: the figures, and what may be claimed."""

import json

import numpy as np
import pytest

from src.errors import UserError
from src.evaluation.settings import compare_settings, markdown_table, named_settings


def results_of(losses: dict[str, np.ndarray], counts: np.ndarray) -> dict:
    """The part of ``results.json`` that is read: loss of each row (N,) by model."""
    return {
        "models": dict.fromkeys(losses),
        "rows": [
            {
                "models": {
                    name: {"loss": of[i], "accuracy": of[i] / 9, "num_scored_tokens": int(n)}
                    for name, of in losses.items()
                }
            }
            for i, n in enumerate(counts)
        ],
    }


SETTINGS = {
    "base": {seed: f"base{seed}" for seed in (1, 2, 3)},
    "other": {seed: f"other{seed}" for seed in (1, 2, 3)},
}


def drawn(rng, effect: float, of_seeds: float, num_rows: int = 200):
    """Losses of two settings: hard and easy rows, a seed's luck, and what the setting does."""
    counts = rng.integers(1, 60, num_rows)
    rows = rng.normal(3, 1, num_rows)
    losses = {}
    for setting, change in (("base", 0.0), ("other", effect)):
        for seed in (1, 2, 3):
            luck = rng.normal(0, of_seeds)
            losses[f"{setting}{seed}"] = rows + change + luck + rng.normal(0, 0.1, num_rows)
    return losses, counts


def test_figures_are_sums_over_counts_and_seeds_have_their_spread():
    losses, counts = drawn(np.random.default_rng(0), 0.3, 0.01)
    found = compare_settings(results_of(losses, counts), SETTINGS, "base")
    pooled = {name: (of * counts).sum() / counts.sum() for name, of in losses.items()}
    for name, models in SETTINGS.items():
        values = [pooled[model] for model in models.values()]
        assert list(found[name].by_seed["loss"].values()) == pytest.approx(values)
        assert found[name].mean["loss"] == pytest.approx(np.mean(values))
        assert found[name].deviation["loss"] == pytest.approx(np.std(values, ddof=1))
    assert found["base"].change is None
    change = found["other"].change["loss"]
    assert change.value == pytest.approx(found["other"].mean["loss"] - found["base"].mean["loss"])
    assert change.rows[0] < change.value < change.rows[1]
    assert change.seeds[0] < change.value < change.seeds[1]
    assert change.settled
    accuracy = found["other"].change["accuracy"].value
    assert accuracy == pytest.approx(change.value / 9)
    assert found["other"].json()["change"]["loss"]["settled"] is True


def test_the_same_models_differ_in_nothing():
    losses, counts = drawn(np.random.default_rng(1), 0.0, 0.1)
    losses |= {f"other{seed}": losses[f"base{seed}"] for seed in (1, 2, 3)}
    change = compare_settings(results_of(losses, counts), SETTINGS, "base")["other"].change["loss"]
    assert (change.value, change.rows, change.settled) == (0, (0, 0), False)


def test_what_seeds_may_do_is_not_called_settled():
    """Rows alone would be certain of it nearly always: each model has its own luck."""
    rng = np.random.default_rng(2)
    beyond_rows, settled = 0, 0
    for _ in range(60):
        losses, counts = drawn(rng, 0.0, 0.1, num_rows=60)
        found = compare_settings(results_of(losses, counts), SETTINGS, "base")["other"]
        low, high = found.change["loss"].rows
        beyond_rows += low > 0 or high < 0
        settled += found.change["loss"].settled
    assert beyond_rows > 30
    assert settled <= 8  # 3 are expected of 60


def test_one_seed_settles_nothing():
    losses, counts = drawn(np.random.default_rng(3), 1.0, 0.0)
    one = {name: {1: models[1]} for name, models in SETTINGS.items()}
    found = compare_settings(results_of(losses, counts), one, "base")["other"]
    assert not found.change["loss"].settled
    assert np.isnan(found.change["loss"].seeds).all()


def test_seeds_and_models_must_be_there():
    losses, counts = drawn(np.random.default_rng(4), 1.0, 0.0)
    results = results_of(losses, counts)
    with pytest.raises(UserError, match=r"other has the seeds \[1\] and base \[1, 2, 3\]"):
        compare_settings(results, {**SETTINGS, "other": {1: "other1"}}, "base")
    with pytest.raises(UserError, match="elsewhere: not in these results"):
        compare_settings(results, {"base": {1: "elsewhere"}}, "base")


def test_settings_are_named_for_what_differs_and_grouped_by_seed(tmp_path):
    runs = {
        "a": {"seed": 1, "data.packing": True, "lr": 0.1, "corpus": "x", "packing": "1"},
        "b": {"seed": 2, "data.packing": True, "lr": 0.1, "corpus": "x", "packing": "2"},
        "c": {"seed": 1, "data.packing": False, "lr": 0.1, "corpus": "y", "packing": "1"},
        "d": {"seed": 1, "data.packing": True, "lr": 0.1, "corpus": "x", "packing": "1"},
        "e": {"seed": 1, "data.packing": False, "lr": 0.2, "corpus": "x", "packing": "1"},
    }
    for name, settings in runs.items():
        (tmp_path / name / "model").mkdir(parents=True)
        (tmp_path / name / "run.json").write_text(json.dumps({"settings": settings}))
    about = {
        n: {"folder": str(tmp_path / n / "model"), "seed": of["seed"]} for n, of in runs.items()
    }
    results = {"models": dict.fromkeys(runs), "about": about}
    assert named_settings(results, "a") == {
        "baseline": {1: "a", 2: "b"},
        "data.packing=false": {1: "c"},
        "data.packing=false lr=0.2": {1: "e"},
    }
    about["a"]["folder"] = str(tmp_path)
    with pytest.raises(UserError, match="a: no run made it"):
        named_settings(results, "a")


def test_the_table_says_what_is_settled():
    losses, counts = drawn(np.random.default_rng(0), 0.3, 0.01)
    found = compare_settings(results_of(losses, counts), SETTINGS, "base")
    *_, base, other = markdown_table({name: of.json() for name, of in found.items()})
    assert base.startswith(f"| base | {found['base'].mean['loss']:.4f} ± ")
    assert other.endswith("| worse |")
    assert f"{found['other'].change['loss'].value:+.4f}" in other
