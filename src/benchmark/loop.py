"""A plain PyTorch loop: the article's recipe, Hugging Face's model and our own step run in it."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from src.benchmark.stopwatch import Stopwatch
from src.benchmark.turns import Job
from src.data.blocks import Batch
from src.data.order import ResumableLoader
from src.model.loss import IGNORE_INDEX
from src.training.config import OptimizerConfig

HALF = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}  # what a precision casts to

MicroBatch = Mapping[str, Any]  # holds num_tokens: those that are not padding


def train_in_loop(
    job: Job,
    stopwatch: Stopwatch,
    model: nn.Module,
    optimizer: Optimizer,
    steps: Iterable[list[MicroBatch]],
    loss_of: Callable[[MicroBatch], Tensor],
    half: torch.dtype | None,
    before_step: Callable[[GradScaler], None] = lambda scaler: None,
) -> None:
    """Take optimizer steps until the stopwatch has enough.

    ``loss_of`` moves a micro-batch to the device and returns its part of the step's loss, under
    autocast to ``half``; ``before_step`` may clip the gradients.
    """
    scaler = GradScaler(job.device.type, enabled=half is torch.float16)
    stopwatch.begin(model)
    for step in steps:
        for batch in step:
            with torch.autocast(job.device.type, dtype=half, enabled=half is not None):
                loss = loss_of(batch)
            scaler.scale(loss).backward()
        before_step(scaler)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        stopwatch.lap(sum(batch["num_tokens"] for batch in step))


def loaded_steps(loader: ResumableLoader) -> Iterator[list[Batch]]:
    """Yield the micro-batches of each optimizer step that ``loader`` holds."""
    batches = iter(loader)
    while step := list(islice(batches, loader.batches.accumulate)):
        yield step


def on_device(batch: MicroBatch, device: torch.device) -> MicroBatch:
    """Return ``batch`` with its tensors on ``device``."""
    return {
        name: value.to(device) if isinstance(value, Tensor) else value
        for name, value in batch.items()
    }


def dense_labels(batch: Batch) -> Tensor:
    """Return (B, T): at each position the token that is due next, or the ignore index."""
    labels = torch.full_like(batch["input_ids"], IGNORE_INDEX)
    labels.view(-1)[batch["supervised_index"]] = batch["labels"]
    return labels


def adamw_values(config: OptimizerConfig) -> dict[str, Any]:
    """Return what torch's AdamW is given of our optimizer's values."""
    betas, decay = tuple(config.betas), config.weight_decay
    return {"lr": config.learning_rate, "betas": betas, "weight_decay": decay}
