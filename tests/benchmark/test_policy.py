"""Rollouts and PPO are measured: each reply counts once, with the threads that training takes."""

from dataclasses import replace

import pytest
import torch

from src.benchmark import policy
from src.benchmark.preferences import Preferences
from src.benchmark.turns import work_here
from src.errors import UserError
from src.shared_cores import threads_in_torch

VARIANTS = {variant.name: variant for variant in Preferences().variants(torch.device("cpu"))}


@pytest.fixture(autouse=True)
def few_replies(monkeypatch):
    for name in ("NUM_REPLIES", "STEP_REPLIES"):
        monkeypatch.setattr(policy, name, 8)


@pytest.mark.parametrize("num_epochs", [1, 2])
def test_a_reply_that_is_gone_over_twice_counts_once(job, tmp_path, num_epochs):
    values = replace(job.config.ppo, max_new_tokens=4, num_epochs=num_epochs)
    tiny = replace(job, config=replace(job.config, ppo=values), folder=tmp_path)
    result = work_here(VARIANTS["ours_ppo_tiny"], {}, tiny)
    assert (result.amount, result.num_laps) == (8 * values.num_minibatches, 1)


def test_rollouts_take_the_threads_that_training_takes(job, repeat):
    config = replace(job.config, trainer=replace(job.config.trainer, threads=2))
    with threads_in_torch(1):
        work_here(VARIANTS["ours_rollout_tiny"], {}, replace(job, config=config))
        assert torch.get_num_threads() == 2


def test_prompts_that_leave_no_room_for_a_reply_are_a_mistake(job, monkeypatch):
    monkeypatch.setattr(policy, "NUM_TOKENS", job.config.model.n_positions)
    with pytest.raises(UserError, match=r"no prompt .* 64 tokens .* raise tiny\.n_positions"):
        work_here(VARIANTS["ours_rollout_tiny"], {}, job)
