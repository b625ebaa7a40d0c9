"""Pairs of replies that all variants learn from, and ours learning from them."""

import json
from collections.abc import Callable
from dataclasses import replace
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

PAIRS, TOKENS = "pairs.jsonl", "pairs.npy"  # beside the rows; the tokens of both replies of each


def write_pairs(config: BenchmarkConfig) -> None:
    """Write pairs beside the rows of ``config``: to each prompt its reply, and another row's.

    Those whose two replies, each after its prompt, do not lie in one block are left out.

    Raises:
        UserError: none is left.
    """
    rows = read_pairs(config)
    others = np.random.default_rng(config.seed).permutation(len(rows))
    both = [[(*rows[i],), (rows[i][0], rows[j][1])] for i, j in enumerate(others)]
    conversations = [Conversation((turn,)) for pair in both for turn in pair]
    words = WordEncoder(load_tokenizer(config.model_folder))
    lengths = np.diff(encode_examples(conversations, words, "responses").offsets).reshape(-1, 2)
    fits = (lengths.sum(1) <= config.block_size) & [a[1] != b[1] for a, b in both]
    if not fits.any():
        raise UserError("no pair of replies fits into a block: raise data.block_size")
    folder = _folder(config)
    found = [
        {"prompt": better[0], "chosen": better[1], "rejected": worse[1]}
        for (better, worse), fit in zip(both, fits, strict=True)
        if fit
    ]
    text = "".join(json.dumps(row) + "\n" for row in found)
    (folder / PAIRS).write_text(text, encoding="utf-8")
    np.save(folder / TOKENS, lengths[fits].sum(1))


def preference_rows(config: BenchmarkConfig) -> list[dict[str, str]]:
    """Return the pairs: ``prompt``, ``chosen`` and ``rejected``."""
    text = (_folder(config) / PAIRS).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def pair_lengths(config: BenchmarkConfig) -> np.ndarray:
    """Return the tokens (pairs,) of both replies of each pair, with their prompts."""
    lengths: np.ndarray = np.load(_folder(config) / TOKENS)
    return lengths


def pairs_per_step(config: BenchmarkConfig) -> int:
    """Return how many pairs have about as many tokens as a step of packed blocks."""
    tokens = config.batch_size * config.block_size
    return max(1, round(tokens / float(pair_lengths(config).mean())))


def _folder(config: BenchmarkConfig) -> Path:
    return Path(config.data.path).parent


def _learn(
    job: Job,
    stopwatch: Stopwatch,
    values: ObjectiveConfig,
    objective: Callable[[TrainConfig], Objective],
) -> None:
    path = str(_folder(job.config) / PAIRS)
    config = replace(job.config, objective=values, data=replace(job.config.data, path=path))
    laps = Laps(stopwatch, lambda batch: int((batch["pair_weight"] > 0).sum()))
    train_with(objective(config), config, job.folder, laps)


def learn_reward(job: Job, stopwatch: Stopwatch) -> None:
    """Train our reward model."""
    _learn(job, stopwatch, job.config.reward, Reward)


def learn_dpo(job: Job, stopwatch: Stopwatch) -> None:
    """Train by our DPO."""
    _learn(job, stopwatch, job.config.dpo, DPO)
