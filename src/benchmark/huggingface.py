"""Hugging Face's GPT2LMHeadModel, trained in a plain loop at its best setting."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor
from torch.amp import GradScaler
from transformers import GPT2LMHeadModel

from src.benchmark.config import BenchmarkConfig
from src.benchmark.inputs import dense_labels, drawn_examples, open_blocks, open_data_module
from src.benchmark.loop import MicroBatch, adamw, loaded_steps, train_in_loop
from src.benchmark.stopwatch import Stopwatch
from src.benchmark.turns import Job
from src.data.batch import Batch
from src.data.blocks import Blocks
from src.model.loss import IGNORE_INDEX

# Blocks in which ``position_ids`` keep documents apart, or else whole rows of like length, padded
# on the right, which needs no mask. ``micro_batch_size`` counts blocks or rows.
CPU_SETTINGS = (
    {"packed": True, "micro_batch_size": 1},
    {"packed": True, "micro_batch_size": 4},
    {"packed": False, "micro_batch_size": 8},
)
GPU_SETTINGS = (
    {"packed": True, "micro_batch_size": 8, "compile": True},
    {"packed": True, "micro_batch_size": 32},
    {"packed": False, "micro_batch_size": 64},
)


def load(
    folder: str, dropout: float, device: torch.device | str = "cpu", **changes: Any
) -> GPT2LMHeadModel:
    """Return the model with the weights that all variants share, in fp32 with SDPA."""
    changes |= dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), dropout)
    model: Any = GPT2LMHeadModel.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="sdpa", **changes
    )
    return model.to(device)


def train_huggingface(
    job: Job,
    stopwatch: Stopwatch,
    *,
    packed: bool,
    micro_batch_size: int,
    compile: bool = False,
    examples: Callable[[BenchmarkConfig], Iterable[Tensor]] = drawn_examples,
) -> None:
    """AdamW (fused), gradients clipped, dropout 0, the precision that ours has.

    ``examples`` says which rows a step holds that is not packed.
    """
    steps: Iterable[list[MicroBatch]]
    if packed:
        loader = open_data_module(job.config, micro_batch_size).train_dataloader()
        steps = ([packed_micro_batch(batch) for batch in step] for step in loaded_steps(loader))
    else:
        steps = padded_steps(job, micro_batch_size, examples(job.config))
    model = load(job.config.model_folder, 0.0, job.device).train()
    if compile:
        model.compile()
    config = job.config.optimizer
    optimizer = adamw(model, config, fused=True)

    def loss_of(batch: MicroBatch) -> Tensor:
        return summed_loss(model, move_data_to_device(batch, job.device)) / batch["denominator"]

    def clip(scaler: GradScaler) -> None:
        scaler.unscale_(optimizer)
        if config.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)

    train_in_loop(job, stopwatch, model, optimizer, steps, loss_of, clip)


def summed_loss(model: GPT2LMHeadModel, batch: MicroBatch) -> Tensor:
    """Return the summed loss; the labels are those of the positions whose logits are made.

    No mask and no cache: only then does GPT-2 keep apart what ``position_ids`` say is apart.
    """
    names = ("input_ids", "position_ids", "logits_to_keep")
    inputs = {name: batch[name] for name in names if name in batch}
    logits = model(**inputs, attention_mask=None, use_cache=False).logits.flatten(0, 1).float()
    labels = batch["labels"].flatten()
    return F.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX, reduction="sum")


def packed_micro_batch(batch: Batch) -> MicroBatch:
    """Return packed blocks; of one block alone only supervised positions have logits.

    ``logits_to_keep`` is the same for all rows of a batch, so several blocks have logits at all.
    """
    if len(batch["input_ids"]) == 1:
        return {**batch, "logits_to_keep": batch["supervised_index"]}
    return {**batch, "labels": dense_labels(batch)}


def padded_steps(
    job: Job, micro_batch_size: int, steps: Iterable[Tensor]
) -> Iterator[list[MicroBatch]]:
    """Return the micro-batches of each step of examples (rows,): those of like length together."""
    blocks = open_blocks(job.config, packing=False)
    lengths = torch.from_numpy(blocks.lengths)
    for rows in steps:
        num_labels = blocks.targets_per_document[rows].sum()
        by_length = rows[lengths[rows].argsort()].split(micro_batch_size)
        yield [padded_micro_batch(blocks, examples, num_labels) for examples in by_length]


def padded_micro_batch(blocks: Blocks, examples: Tensor, num_labels: int) -> MicroBatch:
    """Return rows padded on the right to the longest of them; their step has so many labels."""
    batch = blocks.batch(examples.numpy(), num_labels)
    longest = int(blocks.lengths[examples].max())
    ids, labels = batch["input_ids"][:, :longest], dense_labels(batch)[:, :longest]
    counts = {key: batch[key] for key in ("num_tokens", "denominator")}
    return {"input_ids": ids, "labels": labels, **counts}
