"""Every figure here was counted by hand."""

import numpy as np
import pytest

from src.benchmark.machine import needed_flops_per_token
from src.benchmark.report import figures_of, lightning_figures, lines, ratios_of
from src.benchmark.rounds import Measured
from src.benchmark.stopwatch import Repeat
from src.data.blocks import Blocks
from src.model.config import GPT2Config
from tests.data.conftest import corpus_of


def measured(*speeds: int, **more) -> Measured:
    repeats = [Repeat(2.0, 2 * speed, 4, 1000 + speed) for speed in speeds]
    return Measured({}, repeats=repeats, **more)


def test_figures_are_medians_with_their_spread():
    figures = figures_of("train", {"ours": measured(30, 10, 20)})
    assert figures["train.ours.real_tokens_per_second"] == 20
    assert figures["train.ours.spread"] == [10, 30]
    assert figures["train.ours.repeats"] == [30, 10, 20]
    assert figures["train.ours.peak_memory_bytes"] == 1030
    assert figures["train.ours.seconds_per_step"] == 0.5


def test_a_ratio_compares_medians_and_spreads_over_the_rounds():
    both = {"ours": measured(30, 10, 20), "blog": measured(10, 5, 4)}
    figures = ratios_of("prepare", both)
    assert figures == {
        "ratio.prepare.ours_to_blog": 4.0,
        "ratio.prepare.ours_to_blog.spread": [2.0, 5.0],
    }
    assert ratios_of("prepare", {"ours": both["ours"]}) == {}


def test_lightning_costs_the_difference_of_two_loops_in_the_same_round():
    ours = Measured({}, repeats=[Repeat(2.0, 1, 1000, 1), Repeat(4.0, 1, 1000, 1)])
    bare = Measured({}, repeats=[Repeat(1.0, 1, 1000, 1), Repeat(3.5, 1, 1000, 1)])
    figures = lightning_figures({"ours": ours, "bare_loop": bare})
    assert figures["train.lightning.ms_per_step"] == pytest.approx(0.75)
    assert figures["train.lightning.spread"] == pytest.approx([0.5, 1.0])


def test_the_arithmetic_that_training_needs():
    """Two documents of 4 and 2 tokens, 3 and 1 labels; 2 layers of width 8, 10 words."""
    corpus = corpus_of(([1, 2, 3, 4], [0, 1, 1, 1]), ([5, 6], [0, 1]))
    blocks = Blocks.build(corpus, 8, True, 0)
    shape = GPT2Config(10, 8, 8, 2, 2, "gelu_new", 0.0)
    layers = 6 * 2 * (3 + 1 + 4 + 4) * 8 * 8
    head = 6 * 10 * 8 * 4 / 6
    # Scores and their use: 2 x 2 operations for each pair of which half is causal, times three.
    attention = 2 * (3 * 4 * 8 * (16 + 4) / 2) / 6
    assert needed_flops_per_token(shape, blocks) == pytest.approx(layers + head + attention)


def test_the_summary_names_ratios_and_the_machine():
    figures = {
        "ratio.train.ours_to_blog_packed": 5.9,
        "ratio.train.ours_to_blog_packed.spread": [5.5, 6.1],
        "machine.device": "cpu",
        "machine.processor": "Some CPU",
        "machine.cores": 2,
        "machine.memory_bytes": 2**34,
        "machine.precision": "bf16-mixed",
        "machine.torch": "2.13.0",
    }
    text = "\n".join(lines(figures))
    assert "ours is 5.90x blog_packed (5.50 - 6.10)" in text
    assert "Some CPU, 2 cores, 16 GiB" in text
    assert np.isfinite(figures["ratio.train.ours_to_blog_packed"])
