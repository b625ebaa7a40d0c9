"""Learning from preferences is measured: the same rankings, whole steps, all figures shown."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from src.benchmark import turns
from src.benchmark.benchmark import measure, tables_of
from src.benchmark.inputs import read_pairs, write_inputs
from src.benchmark.pairs import (
    NUM_REPLIES,
    PAIRS,
    RANKINGS,
    blocks_of,
    pair_lengths,
    pairs_per_step,
    preference_rows,
    write_rankings,
)
from src.benchmark.policy import NUM_TOKENS
from src.benchmark.preferences import Preferences
from src.benchmark.turns import Job, work_here
from src.data.template import encode_prompt
from src.data.tokenizer import load_tokenizer
from src.errors import UserError
from tests.benchmark.conftest import TINY, benchmark_config

CPU = torch.device("cpu")
VARIANTS = {variant.name: variant for variant in Preferences().variants(CPU)}
OURS = ("ours_reward", "ours_dpo")


# Four replies, each after its prompt, lie in one block.
ROOM = ("data.block_size=256", "model.n_positions=256", "batch_size=2")


@pytest.fixture(scope="module")
def paired(tmp_path_factory):
    """Shared rows with rankings beside them."""
    folder = tmp_path_factory.mktemp("rankings")
    config = benchmark_config(*TINY, *ROOM)
    shared = write_inputs(folder / "inputs", config, config.model, config.num_rows)
    write_rankings(shared)
    return Job(shared, CPU, "32-true", folder / "work", folder / "logs")


@pytest.fixture
def rankings(paired):
    path = Path(paired.config.data.path).with_name(RANKINGS)
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_ranking_is_a_prompts_reply_and_three_others_and_fits(paired, rankings):
    rows = read_pairs(paired.config)
    own = {prompt: {reply for asked, reply in rows if asked == prompt} for prompt, _ in rows}
    assert 50 < len(rankings) <= len(rows)
    tokenizer = load_tokenizer(paired.config.model_folder)
    for row, tokens in zip(rankings, pair_lengths(paired.config).reshape(-1, 6), strict=True):
        assert row["ranks"] == [1, 2, 3, 4]
        assert row["replies"][0] in own[row["prompt"]]
        assert set(row["replies"]) <= {reply for _, reply in rows}
        assert len(set(row["replies"])) == NUM_REPLIES
        lengths = [
            len(encode_prompt(tokenizer, row["prompt"])) + len(tokenizer.encode(f" {reply}")) + 1
            for reply in row["replies"]
        ]
        assert sum(lengths) <= 256
        assert tokens.tolist() == [lengths[i] + lengths[j] for i, j in PAIRS]


def test_trl_gets_every_pair_of_every_ranking(paired, rankings):
    rows = preference_rows(paired.config)
    assert len(rows) == 6 * len(rankings) == len(pair_lengths(paired.config))
    first = rankings[0]["replies"]
    assert [(row["chosen"], row["rejected"]) for row in rows[:6]] == [
        *((first[0], other) for other in first[1:]),
        *((first[1], other) for other in first[2:]),
        (first[2], first[3]),
    ]


def test_a_step_of_trls_has_the_pairs_of_our_blocks(paired):
    mean = 6 * 2 * 256 / (2 * pair_lengths(paired.config).mean())
    assert abs(pairs_per_step(paired.config) - mean) <= 3
    assert pairs_per_step(paired.config) % 6 == 0
    blocks = blocks_of(16, paired.config)
    assert abs(pairs_per_step(replace(paired.config, batch_size=blocks)) - 96) <= 12


def test_no_four_replies_in_a_block_is_said(job):
    with pytest.raises(UserError, match=r"raise data\.block_size"):
        write_rankings(replace(job.config, data=replace(job.config.data, block_size=16)))


@pytest.mark.parametrize("name", OURS)
def test_ours_learns_from_all_pairs_of_whole_rankings(paired, name, tmp_path):
    result = work_here(VARIANTS[name], {}, replace(paired, folder=tmp_path))
    assert result.amount % 6 == 0
    assert 0 < result.amount - 0.5 * pairs_per_step(paired.config) <= pairs_per_step(paired.config)


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
def test_trl_learns_from_the_same_pairs(paired, tmp_path, name):
    pytest.importorskip("trl")
    for setting in VARIANTS[name].settings[:2]:
        result = work_here(VARIANTS[name], setting, replace(paired, folder=tmp_path))
        assert abs(result.amount - pairs_per_step(paired.config)) <= 2


@pytest.mark.slow
def test_every_figure_is_in_the_json_and_in_the_table(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(turns, "take_turn", work_here)
    monkeypatch.setattr("src.benchmark.policy.NUM_REPLIES", 8)
    monkeypatch.setattr("src.benchmark.policy.STEP_REPLIES", 8)
    names = [f"{name}{end}" for name in OURS for end in ("", "_tiny")]
    names += ["ours_rollout_tiny", "ours_ppo_tiny"]
    own = (
        *TINY,
        *ROOM,
        "what=preferences",
        f"variants=[{','.join(names)}]",
        "ppo.max_new_tokens=4",
    )
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
