"""Rankings of replies that all variants learn from, and ours learning from them."""

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations, islice
from pathlib import Path

import numpy as np

from src.benchmark.config import BenchmarkConfig
from src.benchmark.inputs import read_pairs
from src.benchmark.ours import Laps, train_with
from src.benchmark.stopwatch import Stopwatch
from src.benchmark.turns import Job
from src.data.conversation import Conversation
from src.data.template import encode_examples
from src.data.tokenizer import load_tokenizer
from src.data.words import WordEncoder
from src.errors import UserError
from src.objectives.dpo import DPO
from src.objectives.reward import Reward
from src.training.config import ObjectiveConfig, TrainConfig
from src.training.objective import Objective

# Beside the rows; of each reply the tokens, with its prompt: (rankings, replies).
RANKINGS, TOKENS = "rankings.jsonl", "rankings.npy"
NUM_REPLIES = 4  # to each prompt, as InstructGPT's labellers ranked 4 to 9
PAIRS = tuple(combinations(range(NUM_REPLIES), 2))  # of a ranking, the better one first
MOST_ROWS = 64  # that are looked at for replies that differ


def write_rankings(config: BenchmarkConfig) -> None:
    """Write rankings beside the rows of ``config``: to each prompt its reply, then other rows'.

    Those whose replies, each after its prompt, do not lie in one block are left out.

    Raises:
        UserError: none is left.
    """
    rows = read_pairs(config)
    found = [
        (prompt, replies)
        for (prompt, _), replies in zip(rows, _replies(rows, config.seed), strict=True)
        if len(replies) == NUM_REPLIES
    ]
    turns = [((prompt, reply),) for prompt, replies in found for reply in replies]
    words = WordEncoder(load_tokenizer(config.model_folder))
    encoded = encode_examples([Conversation(turn) for turn in turns], words, "responses")
    lengths = np.diff(encoded.offsets).reshape(-1, NUM_REPLIES)
    fits = lengths.sum(1) <= config.block_size
    if not fits.any():
        raise UserError(
            f"no {NUM_REPLIES} different replies to a prompt fit into a block: raise "
            f"data.block_size or num_rows"
        )
    ranks = list(range(1, NUM_REPLIES + 1))
    text = "".join(
        json.dumps({"prompt": prompt, "replies": replies, "ranks": ranks}) + "\n"
        for (prompt, replies), fit in zip(found, fits, strict=True)
        if fit
    )
    folder = _folder(config)
    (folder / RANKINGS).write_text(text, encoding="utf-8")
    np.save(folder / TOKENS, lengths[fits])


def _replies(rows: list[tuple[str, str]], seed: int) -> list[list[str]]:
    """Return for each row its own reply and those of rows after it in a random order."""
    order = np.random.default_rng(seed).permutation(len(rows))
    found: list[list[str]] = [[] for _ in rows]
    for place, row in enumerate(order):
        others = order[np.arange(place, place + MOST_ROWS) % len(order)]
        near = (rows[other][1] for other in others)
        found[row] = list(islice(dict.fromkeys(near), NUM_REPLIES))
    return found


def preference_rows(config: BenchmarkConfig) -> list[dict[str, str]]:
    """Return all pairs of all rankings: ``prompt``, ``chosen`` and ``rejected``."""
    text = (_folder(config) / RANKINGS).read_text(encoding="utf-8")
    return [
        {"prompt": row["prompt"], "chosen": row["replies"][i], "rejected": row["replies"][j]}
        for row in map(json.loads, text.splitlines())
        for i, j in PAIRS
    ]


def pair_lengths(config: BenchmarkConfig) -> np.ndarray:
    """Return the tokens (pairs,) of both replies of each pair, with their prompts."""
    lengths: np.ndarray = _lengths(config)[:, PAIRS].sum(2).reshape(-1)
    return lengths


def pairs_per_step(config: BenchmarkConfig) -> int:
    """Return how many pairs the rankings of a step of packed blocks have, about."""
    tokens = config.batch_size * config.block_size
    rankings = round(tokens / float(_lengths(config).sum(1).mean()))
    return max(1, rankings) * len(PAIRS)


def blocks_of(num_rankings: int, config: BenchmarkConfig) -> int:
    """Return how many packed blocks hold about so many rankings."""
    tokens = num_rankings * float(_lengths(config).sum(1).mean())
    return max(1, round(tokens / config.block_size))


def _lengths(config: BenchmarkConfig) -> np.ndarray:
    lengths: np.ndarray = np.load(_folder(config) / TOKENS)
    return lengths


def _folder(config: BenchmarkConfig) -> Path:
    return Path(config.data.path).parent


def _learn(
    job: Job,
    stopwatch: Stopwatch,
    values: ObjectiveConfig,
    objective: Callable[[TrainConfig], Objective],
) -> None:
    path = str(_folder(job.config) / RANKINGS)
    config = replace(job.config, objective=values, data=replace(job.config.data, path=path))
    laps = Laps(stopwatch, lambda batch: int((batch["pair_weight"] > 0).sum()))
    train_with(objective(config), config, job.folder, laps)


def learn_reward(job: Job, stopwatch: Stopwatch) -> None:
    """Train our reward model."""
    _learn(job, stopwatch, job.config.reward, Reward)


def learn_dpo(job: Job, stopwatch: Stopwatch) -> None:
    """Train by our DPO."""
    _learn(job, stopwatch, job.config.dpo, DPO)
