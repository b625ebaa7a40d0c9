"""What is claimed of a difference, and what is not."""

import math
from pathlib import Path

import numpy as np
import pytest

from src.evaluation.candidates import Candidate
from src.evaluation.comparison import compare, seed_groups, seeds_differ, spread
from src.evaluation.conclusions import conclusions, short_names
from src.evaluation.evaluation import Judged
from src.evaluation.figures import ratio

ROWS = 200


def judged(
    name: str, losses: np.ndarray, tokens: str = "t", cut: np.ndarray | None = None, **settings
) -> Judged:
    count = np.full(len(losses), 10.0)
    columns = {
        "loss": ratio(losses * count, count),
        "bits_per_byte": ratio(losses * count, 40 * np.ones(len(losses))),
    }
    candidate = Candidate(name, Path(name), None, settings)
    return Judged(candidate, columns, [None] * len(losses), tokens, _cut(losses, cut), 64)


def _cut(losses: np.ndarray, cut: np.ndarray | None) -> np.ndarray:
    return np.zeros(len(losses), dtype=bool) if cut is None else cut


@pytest.fixture
def losses() -> np.ndarray:
    return 2 + np.random.default_rng(0).standard_gamma(1.0, ROWS)


def said(*models: Judged) -> tuple[str, object]:
    comparison = compare(models, 1000, 0)
    return "\n".join(conclusions(models, comparison, ROWS)), comparison


def test_what_is_said_of_several_models_is_said_once(losses):
    models = [judged(name, losses) for name in ("a", "b", "c")]
    for model in models:
        model.notes.append("its rows were cut")
    models[1].notes.append("it has no end")
    text, _ = said(*models)
    assert text.startswith("a, b, c: its rows were cut.\nb: it has no end.\n")


def test_the_same_model_twice_has_no_difference(losses):
    text, comparison = said(judged("a", losses), judged("b", losses))
    assert "score the same on every row: no difference" in text
    assert "better" not in text
    for models in comparison.differences.values():
        (found,) = models.values()
        assert found.interval == (0, 0, 0)
        assert not found.certain


def test_a_small_difference_on_every_row_is_certain_though_the_intervals_overlap(losses):
    worse = losses + 0.02 + 0.02 * np.random.default_rng(1).normal(size=ROWS)
    text, comparison = said(judged("good", losses), judged("bad", worse))
    first, second = (each["loss"] for each in comparison.intervals)
    assert second.low < first.high  # each alone says nothing
    found = comparison.differences["loss"][1]
    assert found.certain
    assert found.interval.low > 0
    assert "good is better on rows like these" in text


def test_a_figure_that_says_the_contrary_is_named(losses):
    models = [judged("a", losses), judged("b", losses + 1 + losses / 9)]
    for model, share in zip(models, (0.3, 0.4), strict=True):
        right = share + 0.1 * np.random.default_rng(6).random(ROWS)
        model.columns["accuracy"] = ratio(10 * right, np.full(ROWS, 10.0), is_share=True)
        model.columns["first_token_accuracy"] = ratio(right, np.ones(ROWS), is_share=True)
    text, _ = said(*models)
    worse = "but certainly worse in accuracy and 1 other figure."
    assert f"a is better on rows like these, {worse}" in text


def test_chance_is_not_called_a_difference(losses):
    other = losses + 0.3 * np.random.default_rng(4).normal(size=ROWS)
    text, comparison = said(judged("a", losses), judged("b", other))
    (found,) = comparison.differences["loss"].values()
    assert not found.certain
    assert "these rows do not show which is better" in text


def test_of_many_models_one_is_the_best_by_chance(losses):
    spread_of_rows = np.random.default_rng(5).normal(size=ROWS)
    spread_of_rows -= spread_of_rows.mean()
    # 3.1 standard errors: enough between two models, not for the ends of twelve.
    worse = losses + 0.1 * (spread_of_rows / spread_of_rows.std() + 3.1 / math.sqrt(ROWS))
    text, _ = said(judged("a", losses), judged("b", worse))
    assert "a is better on rows like these" in text
    text, comparison = said(judged("a", losses), *(judged(f"b{i}", worse) for i in range(11)))
    assert not any(found.certain for found in comparison.differences["loss"].values())
    assert "not certain, with 66 pairs of models compared" in text


def test_few_rows_claim_nothing(losses):
    text, comparison = said(
        judged("a", losses[:3]), judged("b", losses[:3] + 1.0 + losses[3:6] / 9)
    )
    assert not comparison.differences["loss"][1].certain
    assert "too few rows" in text


def test_many_comparisons_make_a_claim_harder(losses):
    rng = np.random.default_rng(0)
    noise = rng.normal(size=ROWS)
    noise -= noise.mean()
    near = losses + 0.3 * noise + 0.3 * 2.3 / math.sqrt(ROWS)  # 2.3 standard errors
    two = compare([judged("a", losses), judged("b", near)], 4000, 0)
    assert two.differences["loss"][1].certain
    others = [judged(str(i), losses + 1 + 0.1 * rng.normal(size=ROWS)) for i in range(8)]
    many = compare([judged("a", losses), judged("b", near), *others], 4000, 0)
    assert not many.differences["loss"][1].certain
    assert many.differences["loss"][1].interval == two.differences["loss"][1].interval


def test_models_with_different_tokenizers_are_compared_by_bytes_alone(losses):
    cut = np.arange(ROWS) < 5
    other = judged("b", losses + 0.5, tokens="other", cut=cut)
    text, comparison = said(judged("a", losses), other)
    assert "loss" not in comparison.differences
    found = comparison.differences["bits_per_byte"][1]
    assert found.num_rows == ROWS - 5  # a row that one of them cut is not the same text
    assert found.certain
    assert "Different tokenizers" in text
    assert "bits per byte: a" in text
    assert "loss (nats a token)" not in text


def test_runs_that_differ_in_their_seed_alone_are_a_group(losses):
    models = [
        judged("a", losses, seed=1, lr=0.1),
        judged("b", losses + 0.1, seed=2, lr=0.1),
        judged("c", losses, seed=1, lr=0.2),
        judged("d", losses, seed=2, lr=0.1),  # the same seed twice
        judged("e", losses),
    ]
    assert seed_groups(models) == [[0, 1]]
    indifferent = {"data.corpus_dir": "x", "device": "cuda", "trainer.log_every_n_steps": 7}
    assert seed_groups([models[0], judged("f", losses, seed=3, lr=0.1, **indifferent)]) == [[0, 1]]


def test_the_spread_of_seeds_stands_beside_that_of_rows(losses):
    text, comparison = said(
        judged("a", losses, seed=1, lr=1), judged("b", losses + 0.1, seed=2, lr=1)
    )
    assert comparison.spreads[0]["loss"].deviation == pytest.approx(0.1 / math.sqrt(2))
    assert "differ in nothing but their seed" in text
    assert "only chance stands between them" in text


def test_one_row_has_no_spread_to_speak_of(losses):
    one = losses[:1]
    text, _ = said(judged("a", one, seed=1, lr=1), judged("b", one + 0.1, seed=2, lr=1))
    assert "standard deviation between 2 seeds." in text
    assert "paired over 1 row:" in text
    assert "nan" not in text


def test_settings_that_differ_by_less_than_seeds_do_are_not_settled(losses):
    def run(name, shift, seed, lr):
        return judged(name, losses + shift, seed=seed, lr=lr)

    text, _ = said(
        run("a", 0.0, 1, 1), run("b", 0.3, 2, 1), run("c", 0.05, 1, 2), run("d", 0.35, 2, 2)
    )
    assert "which setting is better is not settled" in text
    text, _ = said(
        run("a", 0.0, 1, 1), run("b", 0.01, 2, 1), run("c", 0.5, 1, 2), run("d", 0.51, 2, 2)
    )
    assert "the setting of a is better" in text


def test_one_seed_a_setting_says_nothing_of_the_settings(losses):
    text, _ = said(judged("a", losses, seed=1, lr=1), judged("b", losses + 1, seed=1, lr=2))
    assert "one seed each" in text
    assert "train more seeds" in text


def test_one_seed_beside_several_is_held_against_what_another_would_do(losses):
    several = [judged(n, losses + s, seed=s, lr=1) for n, s in (("a", 0.1), ("b", 0.2), ("c", 0.3))]
    text, _ = said(judged("x", losses - 0.05, seed=1, lr=2), *several)
    assert "within what another seed" in text
    text, _ = said(judged("x", losses - 5, seed=1, lr=2), *several)
    assert "more than another seed" in text


def test_a_model_whose_losses_are_not_finite_is_compared_with_nobody(losses):
    broken = losses.copy()
    broken[3] = math.nan
    _, comparison = said(judged("a", losses), judged("b", broken), judged("c", losses + 1))
    assert comparison.differences["loss"].keys() == {2}
    assert math.isnan(comparison.intervals[1]["loss"].value)


def test_welchs_t_of_known_numbers():
    first, second = spread([1.0, 2.0, 3.0]), spread([2.0, 4.0, 6.0])
    found, certain = seeds_differ(first, second)
    # t = -2 / sqrt(1/3 + 4/3) = -1.549, 2.94 degrees of freedom: t of 2 is taken, to be careful.
    assert found.value == -2.0
    assert found.high - found.value == pytest.approx(4.303 * math.sqrt(5 / 3), rel=1e-3)
    assert not certain


def test_short_names_are_those_of_the_runs():
    names = ["outputs/train/x_1/model", "outputs/train/x_2", "gpt2", "http://localhost:1/v1"]
    assert short_names(names) == ["x_1", "x_2", "gpt2", "http://localhost:1/v1"]
    assert short_names(["a/x/model", "b/x"]) == ["a/x/model", "b/x"]
