"""TRL's SFTTrainer, at its defaults with packing and at the best of a list of settings."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast, TrainerCallback

from src.benchmark.huggingface import load
from src.benchmark.inputs import ENDLESS, Pair, read_pairs
from src.benchmark.stopwatch import Stopwatch
from src.benchmark.turns import Job, Setting
from src.data.template import PROMPT_HEADER, RESPONSE_HEADER

GPT2_DROPOUT = 0.1  # of OpenAI's configuration, which TRL leaves as it is
PRECISION = {"32-true": {"bf16": False}, "16-mixed": {"bf16": False, "fp16": True}}


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
    packed, rows = ((1,), (1, 8)) if device.type == "cpu" else ((1, 2, 4, 8), (1, 2, 4, 8))
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


def train(
    job: Job, stopwatch: Stopwatch, *, dropout: float = GPT2_DROPOUT, **arguments: Any
) -> None:
    """Train with ``arguments`` of SFTConfig; a step has about as many tokens as ours."""
    pairs = read_pairs(job.config)
    if "per_device_train_batch_size" in arguments:
        arguments["gradient_accumulation_steps"] = _accumulate(job, arguments, pairs)
    train_on(job, stopwatch, pairs, arguments, dropout)


def train_on(
    job: Job,
    stopwatch: Stopwatch,
    pairs: list[Pair],
    arguments: dict[str, Any],
    dropout: float,
    steps: Iterator[Tensor] | None = None,
) -> None:
    """Train on ``pairs`` as prompt and completion.

    ``arguments`` are SFTConfig's; ``steps`` the rows (n,) of each step, None: as TRL draws them.
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
            if steps is None:
                return super().get_train_dataloader()
            rows = map(Tensor.tolist, steps)
            return DataLoader(self.train_dataset, batch_sampler=rows, collate_fn=self.data_collator)

    class Laps(TrainerCallback):
        """Tells the stopwatch of every optimizer step."""

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            stopwatch.begin(trainer.model)

        def on_step_end(self, *_: Any, **__: Any) -> None:
            num_tokens, trainer.num_tokens = trainer.num_tokens, 0
            stopwatch.lap(num_tokens)

    rows = [
        {"prompt": f"{PROMPT_HEADER}{prompt}\n{RESPONSE_HEADER}", "completion": f" {response}"}
        for prompt, response in pairs
    ]
    values = {
        "output_dir": str(job.folder),
        "use_cpu": job.device.type == "cpu",
        "max_length": job.config.data.block_size,
        "max_steps": ENDLESS,
        "seed": job.config.seed,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        **PRECISION.get(job.precision, {}),
    }
    trainer = CountingTrainer(
        model=load(job.config.model.pretrained, dropout),
        args=SFTConfig(**values, **arguments),
        train_dataset=Dataset.from_list(rows),
        processing_class=_tokenizer(job),
        callbacks=[Laps()],
    )
    assert steps is None or len(trainer.train_dataset) == len(pairs)
    trainer.train()


def real_tokens(inputs: dict[str, Any]) -> int | Tensor:
    """Return how many tokens of a collated batch are not padding."""
    mask = inputs.get("attention_mask")
    return inputs["input_ids"].numel() if mask is None else mask.sum()


def _tokenizer(job: Job) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(job.config.model.pretrained)


def _accumulate(job: Job, arguments: Setting, pairs: list[Pair]) -> int:
    """Return the gradient accumulation that makes a step about as many tokens as ours."""
    tokenizer = _tokenizer(job)
    block_size, size = job.config.data.block_size, arguments["per_device_train_batch_size"]
    mean = sum(len(tokenizer.encode(" ".join(pair))) for pair in pairs) / len(pairs) + 8
    per_row = block_size if arguments["packing"] else min(mean, block_size)
    return max(1, round(job.config.batch_size * block_size / (size * per_row)))
