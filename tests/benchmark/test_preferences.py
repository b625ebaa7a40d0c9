"""Learning from preferences is measured: the same pairs, whole steps, every figure in the table."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from src.benchmark import turns
from src.benchmark.benchmark import measure, tables_of
from src.benchmark.inputs import read_pairs
from src.benchmark.pairs import pair_lengths, pairs_per_step, preference_rows, write_pairs
from src.benchmark.policy import NUM_TOKENS
from src.benchmark.preferences import Preferences
from src.benchmark.turns import work_here
from tests.benchmark.conftest import TINY, benchmark_config

CPU = torch.device("cpu")
VARIANTS = {variant.name: variant for variant in Preferences().variants(CPU)}
OURS = ("ours_reward", "ours_dpo")


@pytest.fixture(scope="module")
def paired(job):
    """The shared rows with pairs beside them."""
    write_pairs(job.config)
    return job


def test_pairs_are_a_prompts_reply_and_anothers_and_fit(paired):
    rows = preference_rows(paired.config)
    replies = dict(read_pairs(paired.config))
    assert 50 < len(rows) <= len(read_pairs(paired.config))
    assert all(replies[row["prompt"]] == row["chosen"] != row["rejected"] for row in rows)
    lengths = pair_lengths(paired.config)
    assert (len(lengths), lengths.max() <= 64) == (len(rows), True)
    assert pairs_per_step(paired.config) == round(4 * 64 / np.mean(lengths))


@pytest.mark.parametrize("name", OURS)
def test_ours_learns_from_whole_steps_of_pairs(paired, repeat, name):
    result = repeat(VARIANTS[name])
    assert 1 <= result.amount <= 4 * 64 / pair_lengths(paired.config).min()


def test_a_lap_of_ppo_is_an_iteration_and_of_rollouts_all_their_tokens(
    job, repeat, tmp_path, monkeypatch
):
    for name in ("NUM_REPLIES", "STEP_REPLIES"):
        monkeypatch.setattr(f"src.benchmark.policy.{name}", 8)
    own = replace(job.config, ppo=replace(job.config.ppo, max_new_tokens=4))
    tiny = replace(job, config=own, folder=tmp_path)
    result = work_here(VARIANTS["ours_ppo_tiny"], {}, tiny)
    assert (result.amount, result.num_laps) == (8 * own.ppo.num_minibatches, 1)
    assert repeat(VARIANTS["ours_rollout_tiny"]).amount == 8 * NUM_TOKENS


@pytest.mark.slow
@pytest.mark.parametrize("name", ["trl_reward", "trl_dpo"])
def test_trl_learns_from_the_same_pairs(paired, repeat, name):
    pytest.importorskip("trl")
    for setting in VARIANTS[name].settings[:2]:
        result = repeat(VARIANTS[name], setting)
        assert abs(result.amount - pairs_per_step(paired.config)) <= 2


def test_every_figure_is_in_the_json_and_in_the_table(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(turns, "take_turn", work_here)
    monkeypatch.setattr("src.benchmark.policy.NUM_REPLIES", 8)
    monkeypatch.setattr("src.benchmark.policy.STEP_REPLIES", 8)
    names = [f"{name}{end}" for name in OURS for end in ("", "_tiny")]
    names += ["ours_rollout_tiny", "ours_ppo_tiny"]
    own = (*TINY, "what=preferences", f"variants=[{','.join(names)}]", "ppo.max_new_tokens=4")
    figures = measure(benchmark_config(*own), tmp_path)
    speeds = dict.fromkeys(names[:4], "pairs_per_second")
    speeds |= {
        "ours_rollout_tiny": "rollout_tokens_per_second",
        "ours_ppo_tiny": "samples_per_second",
    }
    for name, speed in speeds.items():
        value = figures[f"preferences.{name}.{speed}"]
        assert math.isfinite(value), name
        assert value > 0, name
    assert json.loads((tmp_path / "benchmark.json").read_text()) == figures
    shown = capsys.readouterr().out
    assert all(f"| {name} " in shown for name in names)
    assert "rollout tokens/s" in shown

    for end in ("", "_tiny"):  # as where TRL is installed
        for size in ("pairs_per_second", "peak_memory_bytes"):
            figures[f"preferences.trl_dpo{end}.{size}"] = 100.0
        figures[f"preferences.trl_dpo{end}.spread"] = [90.0, 110.0]
        figures[f"ratio.preferences.ours_dpo{end}_to_trl_dpo{end}"] = 4.0
        figures[f"ratio.preferences.ours_dpo{end}_to_trl_dpo{end}.spread"] = [3.5, 4.5]
    assert tables_of(figures).count("4.00x (3.50 - 4.50)") == 2
