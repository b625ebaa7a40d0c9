"""A plain PyTorch loop: the article's recipe, Hugging Face's model and our own step run in it."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import AdamW, Optimizer

from src.benchmark.stopwatch import Stopwatch
from src.benchmark.turns import Job
from src.data.batch import Batch
from src.data.order import ResumableLoader
from src.training.config import OptimizerConfig

HALF = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}  # what a precision casts to

MicroBatch = Mapping[str, Any]  # holds num_tokens: those that are not padding


def train_in_loop(
    job: Job,
    stopwatch: Stopwatch,
    model: nn.Module,
    optimizer: Optimizer,
    steps: Iterable[Sequence[Any]],
    loss_of: Callable[[Any], Tensor],
    before_step: Callable[[GradScaler], None] = lambda scaler: None,
) -> None:
    """Take optimizer steps in ``job.precision`` until the stopwatch has enough.

    ``loss_of`` moves a micro-batch to the device and returns its part of the step's loss;
    ``before_step`` may clip the gradients.
    """
    half = HALF.get(job.precision)
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


def adamw(model: nn.Module, config: OptimizerConfig, **options: Any) -> AdamW:
    """Return torch's AdamW with our values, on all weights alike."""
    betas = (config.betas[0], config.betas[1])
    rate, decay = config.learning_rate, config.weight_decay
    return AdamW(model.parameters(), lr=rate, betas=betas, weight_decay=decay, **options)
