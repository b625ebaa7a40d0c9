"""TRL's RewardTrainer and DPOTrainer, at the best of a list of settings."""

from typing import Any

import torch
from torch import Tensor
from transformers import GPT2ForSequenceClassification, PreTrainedTokenizerFast, TrainerCallback
from transformers.trainer_pt_utils import LengthGroupedSampler

from src.benchmark.config import BenchmarkConfig
from src.benchmark.huggingface import load
from src.benchmark.pairs import pair_lengths, pairs_per_step, preference_rows
from src.benchmark.stopwatch import Stopwatch
from src.benchmark.trl_sft import common_arguments
from src.benchmark.turns import Job, Setting
from src.data.template import PROMPT_HEADER, RESPONSE_HEADER


def settings(device: torch.device, **more: Any) -> tuple[Setting, ...]:
    """Return what is tried: no gradient checkpointing, and some sizes of batches."""
    sizes = (8, 32, 96) if device.type == "cpu" else (32, 128)
    return tuple(
        {"gradient_checkpointing": False, **more, "per_device_train_batch_size": size}
        for size in sizes
    )


def dpo_settings(device: torch.device) -> tuple[Setting, ...]:
    """Return the same with the reference's log-probabilities computed before the first step."""
    return settings(device, precompute_ref_log_probs=True)


def train_reward(job: Job, stopwatch: Stopwatch, **arguments: Any) -> None:
    """Train a reward model."""
    from trl import RewardConfig, RewardTrainer

    # Without dropout, as ours: the model's folder says so.
    model = GPT2ForSequenceClassification.from_pretrained(
        job.config.model_folder, num_labels=1, dtype=torch.float32, attn_implementation="sdpa"
    )
    _train(job, stopwatch, RewardTrainer, RewardConfig, model, arguments)


def train_dpo(job: Job, stopwatch: Stopwatch, **arguments: Any) -> None:
    """Train by direct preference optimisation, with our beta."""
    from trl import DPOConfig, DPOTrainer

    model = load(job.config.model_folder, dropout=0.0)
    values = {"beta": job.config.dpo.beta, **arguments}
    _train(job, stopwatch, DPOTrainer, DPOConfig, model, values)


def _train(
    job: Job,
    stopwatch: Stopwatch,
    trainer_type: Any,
    config_type: Any,
    model: Any,
    arguments: dict[str, Any],
) -> None:
    """Train on all pairs of the shared rankings; a step has about as many as ours."""
    from datasets import Dataset

    class Laps(TrainerCallback):
        """Tells the stopwatch of every optimizer step."""

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            stopwatch.begin(trainer.model)

        def on_step_end(self, *_: Any, **__: Any) -> None:
            num_pairs, trainer.num_pairs = trainer.num_pairs, 0
            stopwatch.lap(num_pairs)

    config = job.config
    size = min(arguments["per_device_train_batch_size"], pairs_per_step(config))
    batch = {
        "per_device_train_batch_size": size,
        "gradient_accumulation_steps": max(1, round(pairs_per_step(config) / size)),
    }
    rows = _rows(config)
    trainer = _counting(trainer_type, size, pair_lengths(config).tolist())(
        model=model,
        args=config_type(**common_arguments(job), **(arguments | batch)),
        train_dataset=Dataset.from_list(rows),
        processing_class=PreTrainedTokenizerFast.from_pretrained(config.model_folder),
        callbacks=[Laps()],
    )
    assert len(trainer.train_dataset) == len(rows)
    trainer.train()


def _rows(config: BenchmarkConfig) -> list[dict[str, str]]:
    """Return the pairs as TRL reads them, so that its tokens are ours."""
    return [
        {
            "prompt": f"{PROMPT_HEADER}{row['prompt']}\n{RESPONSE_HEADER}",
            "chosen": f" {row['chosen']}",
            "rejected": f" {row['rejected']}",
        }
        for row in preference_rows(config)
    ]


def _counting(trainer_type: Any, size: int, lengths: list[int]) -> Any:
    """Return a trainer of TRL's that counts pairs, in micro-batches of ``size``."""

    class CountingTrainer(trainer_type):  # type: ignore[misc]  # one of two of TRL's
        """Counts the pairs of every micro-batch: the replies are its rows, better ones first.

        Pairs are grouped by length, so that there is little padding: kinder than TRL, whose own
        ``group_by_length`` does not know the lengths of pairs.
        """

        num_pairs = 0

        def _get_train_sampler(self, dataset: Any = None) -> LengthGroupedSampler:
            return LengthGroupedSampler(size, lengths=lengths)

        def training_step(self, model: Any, inputs: dict[str, Any], *rest: Any) -> Tensor:
            self.num_pairs += len(inputs["input_ids"]) // 2
            loss: Tensor = super().training_step(model, inputs, *rest)
            return loss

    return CountingTrainer
