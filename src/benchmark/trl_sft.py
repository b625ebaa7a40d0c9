"""TRL's SFTTrainer, at its defaults with packing and at the best of a list of settings."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from src.benchmark.huggingface import load
from src.benchmark.inputs import ENDLESS, packed_steps, read_pairs
from src.benchmark.stopwatch import Stopwatch
from src.benchmark.workers import Job, Setting
from src.data.template import PROMPT_HEADER, RESPONSE_HEADER
from src.training.config import OptimizerConfig

GPT2_DROPOUT = 0.1  # of OpenAI's configuration, which TRL leaves as it is


def default_settings(device: torch.device) -> tuple[Setting, ...]:
    """Return TRL's defaults with packing: on a CPU kinder to it than they are.

    Its batch of 8 packed blocks becomes one sequence of 8 x 1024 positions under a dense mask;
    with GPT-2's dropout a CPU spends minutes on such a step. There it gets one block at a time.
    """
    if device.type == "cpu":
        return ({"packing": True, "per_device_train_batch_size": 1},)
    return ({"packing": True},)


def best_settings(device: torch.device) -> tuple[Setting, ...]:
    """Return what is tried: dropout 0 and no gradient checkpointing, packed and not, batch 1 to 8.

    Rows that are not packed are grouped by length, so that there is little padding.
    """
    packed = (1, 2, 4, 8) if device.type == "cuda" else (1,)
    rows = (1, 2, 4, 8) if device.type == "cuda" else (1, 8)
    return tuple(
        {
            "packing": packing,
            "per_device_train_batch_size": size,
            "dropout": 0.0,
            "gradient_checkpointing": False,
            "train_sampling_strategy": "random" if packing else "group_by_length",
        }
        for packing, sizes in ((True, packed), (False, rows))
        for size in sizes
    )


def train(job: Job, stopwatch: Stopwatch) -> None:
    """Train on prompt-completion rows until the stopwatch has enough."""
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    class CountingTrainer(SFTTrainer):
        """Counts the tokens of every micro-batch that are not padding."""

        num_tokens: int | Tensor = 0

        def training_step(self, model: Any, inputs: dict[str, Any], *rest: Any) -> Tensor:
            self.num_tokens = self.num_tokens + real_tokens(inputs)
            return super().training_step(model, inputs, *rest)

        def get_train_dataloader(self) -> DataLoader:
            if steps is None:
                return super().get_train_dataloader()
            return DataLoader(
                self.train_dataset, batch_sampler=steps, collate_fn=self.data_collator
            )

    class Laps(TrainerCallback):
        """Tells the stopwatch of every optimizer step."""

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            stopwatch.begin(trainer.model)

        def on_step_end(self, *_: Any, **__: Any) -> None:
            num_tokens, trainer.num_tokens = trainer.num_tokens, 0
            stopwatch.lap(num_tokens)

    config, pairs = job.config, read_pairs(job.config)
    setting = dict(job.setting)
    steps: Steps | None = None
    if setting.pop("rows", None) == "as_packed":  # to compare what is learnt
        blocks, examples = packed_steps(config)
        pairs = [pairs[row] for row in blocks.kept]
        steps = Steps(examples)
    dropout = setting.pop("dropout", GPT2_DROPOUT)
    if setting.pop("optimizer", None) == "config":  # to compare what is learnt
        setting |= _as_config(config.optimizer)
    arguments = {
        "output_dir": str(job.folder),
        "use_cpu": job.device.type == "cpu",
        "max_length": config.data.block_size,
        "max_steps": ENDLESS,
        "seed": config.seed,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    if job.precision == "32-true":  # no bf16 here, or it was asked for
        arguments["bf16"] = False
    elif job.precision == "16-mixed":
        arguments |= {"bf16": False, "fp16": True}
    tokenizer = PreTrainedTokenizerFast.from_pretrained(config.model.pretrained)
    if "per_device_train_batch_size" in setting:
        setting["gradient_accumulation_steps"] = _accumulate(job, setting, tokenizer, pairs)
    trainer = CountingTrainer(
        model=load(config.model.pretrained, dropout),
        args=SFTConfig(**arguments, **setting),
        train_dataset=Dataset.from_list(
            [
                {
                    "prompt": f"{PROMPT_HEADER}{prompt}\n{RESPONSE_HEADER}",
                    "completion": f" {response}",
                }
                for prompt, response in pairs
            ]
        ),
        processing_class=tokenizer,
        callbacks=[Laps()],
    )
    assert steps is None or len(trainer.train_dataset) == len(pairs)
    trainer.train()


class Steps:
    """A batch sampler: the rows of each step, without end."""

    def __init__(self, examples: Iterator[np.ndarray]):
        self.examples = examples

    def __iter__(self) -> Iterator[list[int]]:
        return (rows.tolist() for rows in self.examples)


def real_tokens(inputs: dict[str, Any]) -> int | Tensor:
    """Return how many tokens of a collated batch are not padding."""
    mask = inputs.get("attention_mask")
    return inputs["input_ids"].numel() if mask is None else mask.sum()


def _as_config(given: OptimizerConfig) -> dict[str, Any]:
    """Return TRL's names for our optimizer's values, at a constant learning rate."""
    return {
        "learning_rate": given.learning_rate,
        "lr_scheduler_type": "constant",
        "adam_beta1": given.betas[0],
        "adam_beta2": given.betas[1],
        "weight_decay": given.weight_decay,
        "max_grad_norm": given.max_grad_norm or 0.0,
    }


def _accumulate(job: Job, setting: Setting, tokenizer: Any, pairs: list[tuple[str, str]]) -> int:
    """Return the gradient accumulation that makes a step about as many tokens as ours."""
    block_size, size = job.config.data.block_size, setting["per_device_train_batch_size"]
    mean = sum(len(tokenizer.encode(" ".join(pair))) for pair in pairs) / len(pairs) + 8
    per_row = block_size if setting["packing"] else min(mean, block_size)
    return max(1, round(job.config.batch_size * block_size / (size * per_row)))
