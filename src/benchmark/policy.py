"""Our rollouts alone, and PPO as a whole."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from src.benchmark.config import BenchmarkConfig
from src.benchmark.inputs import read_pairs
from src.benchmark.ours import Laps, train_with
from src.benchmark.stopwatch import Stopwatch
from src.benchmark.turns import Job
from src.data.template import encode_prompt
from src.data.tokenizer import load_tokenizer
from src.errors import UserError
from src.model.pretrained import load_pretrained
from src.model.rollout import Sampling
from src.model.scalar import ScalarGPT2
from src.objectives.ppo import PPO
from src.talk.reward_folder import save_reward_folder
from src.training.machine import decide
from src.training.place import find_place

NUM_REPLIES, NUM_TOKENS = 256, 32  # of a lap of rollouts
STEP_REPLIES = 64  # of an optimizer step of PPO
NO_TOKEN = -1  # an end token that no model says


def draw_rollouts(job: Job, stopwatch: Stopwatch) -> None:
    """Draw replies that no end token cuts short, in fp32 as PPO does; amounts are tokens."""
    config, values = job.config, job.config.ppo
    torch.set_num_threads(decide(config, find_place()).threads)
    prompts = _prompts(config)
    model = load_pretrained(config.model_folder).to(job.device).eval()
    sampling = Sampling(config.seed, values.temperature, NUM_TOKENS, NO_TOKEN, values.num_slots)

    def lap() -> int:
        rollouts = sampling.rollouts(model, prompts, range(len(prompts)))
        return sum(len(rollout.tokens) for rollout in rollouts)

    with torch.inference_mode():
        stopwatch.time(lap)


def _prompts(config: BenchmarkConfig) -> Sequence[list[int]]:
    """Return prompts, each with room for a reply; some more than once if they are few.

    Raises:
        UserError: there is none.
    """
    tokenizer = load_tokenizer(config.model_folder)
    rows = read_pairs(config)
    room = config.model.n_positions - NUM_TOKENS
    encoded = (encode_prompt(tokenizer, prompt) for prompt, _ in rows)
    found = [ids for ids in encoded if len(ids) <= room]
    if not found:
        raise UserError(
            f"no prompt of the rows leaves room for a reply of {NUM_TOKENS} tokens within "
            f"{config.model.n_positions} positions: raise tiny.n_positions"
        )
    return [found[number % len(found)] for number in range(NUM_REPLIES)]


def learn_ppo(job: Job, stopwatch: Stopwatch) -> None:
    """Train by our PPO with a reward model of the policy's size; amounts are replies."""
    config = job.config
    folder = Path(config.model_folder).with_name("reward_model")
    if not folder.exists():
        reward = ScalarGPT2.of(load_pretrained(config.model_folder))
        save_reward_folder(folder, reward, load_tokenizer(config.model_folder), offset=0.0)
    values = replace(
        config.ppo, reward_model=str(folder), best_of=0, most_kl=None, most_unended=None
    )
    config = replace(config, objective=values, batch_size=STEP_REPLIES)
    steps = values.num_minibatches * values.num_epochs
    laps = Laps(stopwatch, lambda batch: len(batch["last_index"]), steps, values.num_epochs)
    train_with(PPO(config), config, job.folder, laps)
