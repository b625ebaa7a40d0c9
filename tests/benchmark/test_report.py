"""Every figure here was counted by hand."""

from dataclasses import replace

import pytest

from src.benchmark import turns
from src.benchmark.benchmark import PARTS, tables, tables_of
from src.benchmark.machine import needed_flops_per_token
from src.benchmark.part import Part
from src.benchmark.stopwatch import Repeat
from src.benchmark.train import lightning_figures
from src.benchmark.turns import Measured, Variant, work_here
from src.data.blocks import Blocks
from src.errors import UserError
from src.model.config import GPT2Config
from tests.data.conftest import corpus_of

TRAIN, PREPARE = PARTS[:2]
# What a benchmark.json of old has, which knows no commit and no command.
FIGURES = {
    "machine.device": "cpu",
    "machine.processor": "Some CPU",
    "machine.cores": 2,
    "machine.threads": 2,
    "machine.memory_bytes": 2**34,
    "machine.precision": "bf16-mixed",
    "machine.python": "3.12.1",
    "machine.torch": "2.13.0",
    "rows.source": "rows.jsonl",
    "rows.num": 4096,
    "rows.mean_tokens": 98.4,
    "rows.supervised_share": 0.42,
    "rows.block_size": 1024,
    "batch_size": 4,
}


def measured(*speeds: int, **more) -> Measured:
    repeats = [Repeat(2.0, 2 * speed, 4, 1000 + speed) for speed in speeds]
    return Measured({}, repeats=repeats, **more)


def test_figures_are_medians_with_their_spread():
    figures = TRAIN.figures({"ours": measured(30, 10, 20)})
    assert figures["train.ours.real_tokens_per_second"] == 20
    assert figures["train.ours.spread"] == [10, 30]
    assert figures["train.ours.repeats"] == [30, 10, 20]
    assert figures["train.ours.peak_memory_bytes"] == 1030
    assert measured(30).seconds_per_lap == [0.5]


def test_a_ratio_compares_medians_and_spreads_over_the_rounds():
    both = {"ours": measured(30, 10, 20), "article": measured(10, 5, 4)}
    figures = PREPARE.figures(both)
    assert figures["ratio.prepare.ours_to_article"] == 4.0
    assert figures["ratio.prepare.ours_to_article.spread"] == [2.0, 5.0]
    alone = PREPARE.figures({"ours": both["ours"]})
    assert not any(key.startswith("ratio") for key in alone)


def test_lightning_costs_the_difference_of_two_loops_in_the_same_round():
    ours = Measured({}, repeats=[Repeat(2.0, 1, 1000, 1), Repeat(4.0, 1, 1000, 1)])
    bare = Measured({}, repeats=[Repeat(1.0, 1, 1000, 1), Repeat(3.5, 1, 1000, 1)])
    figures = lightning_figures({"ours": ours, "bare_loop": bare})
    assert figures["train.lightning.ms_per_step"] == pytest.approx(0.75)
    assert figures["train.lightning.spread"] == pytest.approx([0.5, 1.0])
    assert lightning_figures({"ours": ours}) == {}


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


def test_the_tables_name_ratios_machine_versions_and_commit():
    both = {"ours": measured(30, 10, 20), "article": measured(10, 5, 4)}
    code = {"git.commit": "0123456789ab-dirty", "command": "python -m this"}
    text = tables_of(FIGURES | code | PREPARE.figures(both))
    assert "| prepare |       rows/s |             ours is |   memory |" in text
    assert "| article |   5 (4 - 10) | 4.00x (2.00 - 5.00) | 0.00 GiB |" in text
    flat = " ".join(text.split())
    assert "git.commit 0123456789ab-dirty, command python -m this" in flat
    assert "rows.source rows.jsonl, rows.num 4,096, rows.mean_tokens 98.4" in flat
    assert "processor Some CPU, cores 2, threads 2, memory 16 GiB" in flat
    assert "python 3.12.1, torch 2.13.0" in flat


def test_one_repeat_has_no_spread_and_prose_is_wrapped():
    text = tables_of(FIGURES | PREPARE.figures({"ours": measured(30)}))
    assert "| ours    |     30 |         | 0.00 GiB |" in text
    assert max(map(len, text.splitlines())) <= 100


def test_a_new_part_is_a_name_and_its_variants(job, monkeypatch, tmp_path):
    class Pairs(Part):
        name = "pairs"
        speed = "pairs_per_second"
        ratios = (("ours", "trl"),)

        def variants(self, device):
            def work(job, stopwatch):
                stopwatch.time(lambda: 10)

            return [Variant("ours", work), Variant("trl", work)]

    monkeypatch.setattr(turns, "take_turn", work_here)
    figures = Pairs().measure(job.config, replace(job, folder=tmp_path))
    assert figures["ratio.pairs.ours_to_trl"] > 0
    table = Pairs().show(figures)[0].splitlines()
    assert [line.split()[1] for line in table] == ["pairs", "-----", "ours", "trl"]


def test_nothing_to_show_is_a_mistake(tmp_path):
    with pytest.raises(UserError, match=r"there is no benchmark\.json"):
        tables(tmp_path)
    (tmp_path / "benchmark.json").write_text("{}")
    with pytest.raises(UserError, match=r"no benchmark\.json with figures"):
        tables(tmp_path)
    (tmp_path / "benchmark.json").write_text("[")
    with pytest.raises(UserError, match="not what the benchmark writes"):
        tables(tmp_path)
