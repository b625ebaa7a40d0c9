"""TRL's SFTTrainer, at its defaults with packing and at the best of a list of settings."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast, TrainerCallback

from src.benchmark.config import BenchmarkConfig
from src.benchmark.huggingface import load
from src.benchmark.inputs import ENDLESS, open_blocks, read_pairs, rows_per_step
from src.benchmark.stopwatch import Stopwatch
from src.benchmark.turns import Job, Setting
from src.data.template import PROMPT_HEADER, RESPONSE_HEADER

GPT2_DROPOUT = 0.1  # of OpenAI's configuration, which TRL leaves as it is
PRECISION = {"32-true": {"bf16": False}, "16-mixed": {"bf16": False, "fp16": True}}


# Rows that are not packed are grouped by length, so that there is little padding.
PACKED = {"packing": True, "dropout": 0.0, "gradient_checkpointing": False}
ROWS = {**PACKED, "packing": False, "train_sampling_strategy": "group_by_length"}


def default_settings(device: torch.device) -> tuple[Setting, ...]:
    """Return TRL's defaults with packing: on a CPU kinder to it than they are.

    Its batch of 8 packed blocks becomes one sequence of 8 x 1024 positions under a dense mask;
    with GPT-2's dropout a CPU spends minutes on such a step. There it gets one block at a time.
    """
    return ({"packing": True, **(_batch(1) if device.type == "cpu" else {})},)


def best_settings(device: torch.device) -> tuple[Setting, ...]:
    """Return what is tried: dropout 0 and no gradient checkpointing, packed and not."""
    if device.type == "cpu":
        return (PACKED | _batch(1), ROWS | _batch(1), ROWS | _batch(8))
    return (PACKED | _batch(8), ROWS | _batch(64))


def _batch(size: int) -> dict[str, Any]:
    return {"per_device_train_batch_size": size}


def train_trl(
    job: Job,
    stopwatch: Stopwatch,
    *,
    dropout: float = GPT2_DROPOUT,
    examples: Callable[[BenchmarkConfig], Iterator[Tensor]] | None = None,
    **arguments: Any,
) -> None:
    """Train on prompts and completions with our optimizer's values and ``arguments`` of SFTConfig.

    ``examples`` says which rows (n,) a step holds; None: as TRL draws them, about as many tokens as
    ours if the arguments say the batch.
    """
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    class CountingTrainer(SFTTrainer):
        """Counts the tokens of every micro-batch that are not padding."""

        num_tokens: int | Tensor = 0

        def training_step(self, model: Any, inputs: dict[str, Any], *rest: Any) -> Tensor:
            self.num_tokens = self.num_tokens + real_tokens(inputs)
            return super().training_step(model, inputs, *rest)

        def get_train_dataloader(self) -> DataLoader:
            if examples is None:
                return super().get_train_dataloader()
            rows = map(Tensor.tolist, examples(config))
            dataset: Any = self.train_dataset
            return DataLoader(dataset, batch_sampler=rows, collate_fn=self.data_collator)

    class Laps(TrainerCallback):
        """Tells the stopwatch of every optimizer step."""

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            stopwatch.begin(trainer.model)

        def on_step_end(self, *_: Any, **__: Any) -> None:
            num_tokens, trainer.num_tokens = trainer.num_tokens, 0
            stopwatch.lap(num_tokens)

    config = job.config
    pairs = read_pairs(config)
    rows = [
        {"prompt": f"{PROMPT_HEADER}{prompt}\n{RESPONSE_HEADER}", "completion": f" {response}"}
        for prompt, response in (pairs[row] for row in open_blocks(config).corpus_index)
    ]
    trainer = CountingTrainer(
        model=load(config.model_folder, dropout),
        args=SFTConfig(**common_arguments(job), **batch_arguments(config, arguments)),
        train_dataset=Dataset.from_list(rows),
        processing_class=PreTrainedTokenizerFast.from_pretrained(config.model_folder),
        callbacks=[Laps()],
    )
    dataset: Any = trainer.train_dataset
    assert examples is None or len(dataset) == len(rows)
    trainer.train()


def batch_arguments(config: BenchmarkConfig, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return ``arguments`` with as many micro-batches as have the tokens of our step."""
    size = arguments.get("per_device_train_batch_size")
    if size is None:
        return arguments
    per_step = config.batch_size if arguments["packing"] else rows_per_step(config)
    return arguments | {"gradient_accumulation_steps": max(1, round(per_step / size))}


def common_arguments(job: Job) -> dict[str, Any]:
    """Return what every variant tells SFTConfig: our optimizer's values, and no extras."""
    config, optimizer = job.config, job.config.optimizer
    return {
        "output_dir": str(job.folder),
        "use_cpu": job.device.type == "cpu",
        "max_length": config.block_size,
        "max_steps": ENDLESS,
        "seed": config.seed,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "learning_rate": optimizer.learning_rate,
        "lr_scheduler_type": "constant",
        "adam_beta1": optimizer.betas[0],
        "adam_beta2": optimizer.betas[1],
        "weight_decay": optimizer.weight_decay,
        "max_grad_norm": optimizer.max_grad_norm or 0.0,
        **PRECISION.get(job.precision, {}),
    }


def real_tokens(inputs: dict[str, Any]) -> int | Tensor:
    """Return how many tokens of a collated batch are not padding."""
    mask = inputs.get("attention_mask")
    return inputs["input_ids"].numel() if mask is None else mask.sum()
