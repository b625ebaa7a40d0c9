"""PPO killed at any moment, again and again, goes on and ends the same to the last bit."""

import json
import random
import time

import pytest
import torch

from src.model.scalar import ScalarGPT2
from src.talk.model_folder import save_model_folder
from src.talk.reward_folder import save_reward_folder
from tests.conftest import greedy
from tests.faults.conftest import count
from tests.faults.sameness import assert_same, assert_saved_whole, left_behind, orphans
from tests.model.conftest import random_model, tiny_config

KILLS = count(10, 3)  # of one run, one after another
SEEDS = count(3, 1)
STEPS = count(48, 16)  # enough that the run is not over before its last kill
SECONDS = 2.5  # in which a run starts and takes some steps, where nobody else works
# Two steps make an iteration, and two micro-batches a step; validated at 5, 10, ...
PPO = (
    *("objective=ppo", "data=file", "data.validation_fraction=0.2", "data.test_fraction=0.1"),
    *("batch_size=8", "micro_batch_size=4", "objective.num_minibatches=2", "sample_prompts=[]"),
    *("objective.max_new_tokens=8", "objective.most_unended=null", "objective.best_of=0"),
    *("objective.target_kl=1", "optimizer.learning_rate=1e-3", f"max_steps={STEPS}"),
    *("trainer.checkpoint_every_n_steps=3", "trainer.log_every_n_steps=2"),
)
# Where it is killed, and at most at which time that it comes there after a start.
PLACES = {"rollouts": 3, "policy step": 12, "saves": 40, "validation answers": 2}


@pytest.fixture
def ppo(train, tokenizer, tmp_path):
    """Start PPO from a random policy with a random reward model; see ``Door``."""
    config = tiny_config(vocab_size=tokenizer.vocab_size, n_positions=64)
    policy = random_model(config, 0)
    torch.manual_seed(1)
    save_model_folder(tmp_path / "policy", policy, tokenizer, greedy(8))
    save_reward_folder(tmp_path / "reward", ScalarGPT2.of(random_model(config, 1)), tokenizer, 0.0)
    rows = tmp_path / "rows.jsonl"
    prompts = [{"prompt": f"What is {i} + {i}?"} for i in range(60)]
    rows.write_text("".join(json.dumps(row) + "\n" for row in prompts), encoding="utf-8")
    own = (f"data.path={rows}", f"objective.reward_model={tmp_path / 'reward'}")
    start = tuple(f"model.{key}={tmp_path / 'policy'}" for key in ("pretrained", "tokenizer"))

    def begin(*overrides: str, folder: str = "run", **environment: str):
        return train(*PPO, *own, *start, *overrides, folder=folder, **environment)

    return begin


@pytest.mark.parametrize("seed", range(SEEDS))
def test_ppo_that_is_killed_ends_as_one_that_was_not(seed, ppo, tmp_path):
    whole = ppo(folder="whole")
    assert whole.wait() == 0, whole.err
    draw, run, killed = random.Random(seed), tmp_path / "run", []
    while len(killed) < KILLS:
        given = [f"resume={run}"] if (run / "run.json").exists() else []
        place = draw.choice([*PLACES, "any"])
        environment = {"MARK": str(tmp_path)}
        if place != "any":
            environment["PLANTED"] = f"{place}:{draw.randint(1, PLACES[place])}:KILL"
        door = ppo(*given, **environment)
        if place == "any":
            time.sleep(draw.uniform(0.5, SECONDS))
            door.kill()
        code = door.wait()
        if code == 0 and "any" in (*killed, place):  # how far it is then, the machine decides
            break
        assert code == -9, f"over before kill {len(killed) + 1} at {place}: {door.err}"
        killed.append(place)
        assert_saved_whole(run)
    assert killed
    door = ppo(f"resume={run}", MARK=str(tmp_path))
    assert door.wait() == 0, door.err
    assert "Traceback" not in door.err
    assert_same(run, tmp_path / "whole")
    assert orphans(str(tmp_path), door.pid) == []
    assert left_behind(tmp_path) == []
