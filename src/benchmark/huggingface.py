"""Hugging Face's GPT2LMHeadModel, trained in a plain loop at its best setting."""

from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.amp import GradScaler
from transformers import GPT2LMHeadModel

from src.benchmark.config import BenchmarkConfig
from src.benchmark.inputs import drawn_examples, open_blocks, open_data_module
from src.benchmark.loop import (
    HALF,
    MicroBatch,
    adamw_values,
    dense_labels,
    loaded_steps,
    on_device,
    train_in_loop,
)
from src.benchmark.stopwatch import Stopwatch
from src.benchmark.turns import Job, Setting
from src.data.blocks import Batch, Blocks
from src.model.loss import IGNORE_INDEX


def load(folder: str, dropout: float) -> GPT2LMHeadModel:
    """Return the model with the weights that all variants share, in fp32 with SDPA."""
    dropouts = dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), dropout)
    return GPT2LMHeadModel.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="sdpa", **dropouts
    )


def settings(device: torch.device) -> tuple[Setting, ...]:
    """Return what is tried.

    ``packed``: blocks in which ``position_ids`` keep documents apart; else whole rows of like
    length, padded on the right, which needs no mask. ``micro_batch_size`` counts blocks or rows.
    ``head``: ``all`` positions, or ``supervised`` ones only through ``logits_to_keep``, which is
    the same for all rows of a batch.
    """
    compiles = (False,) if device.type == "cpu" else (False, True)
    packed, padded = ((4,), (1, 8)) if device.type == "cpu" else ((1, 8, 32), (8, 64, 256))
    kinds = [
        *((True, "supervised", 1, compiled) for compiled in compiles),
        *((True, "all", size, compiled) for size in packed for compiled in compiles),
        *((False, "all", size, False) for size in padded),
    ]
    names = ("packed", "head", "micro_batch_size", "compile")
    return tuple(dict(zip(names, kind, strict=True)) for kind in kinds)


def train(
    job: Job,
    stopwatch: Stopwatch,
    *,
    packed: bool,
    head: str,
    micro_batch_size: int,
    compile: bool,
    examples: Callable[[BenchmarkConfig], Iterable[Tensor]] = drawn_examples,
) -> None:
    """AdamW (fused), gradients clipped, dropout 0, the precision that ours has.

    ``examples`` says which rows a step holds that is not packed.
    """
    if packed:
        steps = packed_steps(job, micro_batch_size, head)
    else:
        steps = padded_steps(job, micro_batch_size, examples(job.config))
    model = load(job.config.model.pretrained, dropout=0.0).to(job.device).train()
    if compile:
        model.compile()
    config = job.config.optimizer
    optimizer = torch.optim.AdamW(model.parameters(), **adamw_values(config), fused=True)

    def loss_of(batch: MicroBatch) -> Tensor:
        return summed_loss(model, on_device(batch, job.device)) / batch["denominator"]

    def clip(scaler: GradScaler) -> None:
        scaler.unscale_(optimizer)
        if config.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)

    half = HALF.get(job.precision)
    train_in_loop(job, stopwatch, model, optimizer, steps, loss_of, half, clip)


def summed_loss(model: GPT2LMHeadModel, batch: MicroBatch) -> Tensor:
    """Return the summed loss; the labels are those of the positions whose logits are made.

    No mask and no cache: only then does GPT-2 keep apart what ``position_ids`` say is apart.
    """
    names = ("input_ids", "position_ids", "logits_to_keep")
    inputs = {name: batch[name] for name in names if name in batch}
    logits = model(**inputs, attention_mask=None, use_cache=False).logits.flatten(0, 1).float()
    labels = batch["labels"].flatten()
    return F.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX, reduction="sum")


def packed_steps(job: Job, micro_batch_size: int, head: str) -> Iterator[list[MicroBatch]]:
    """Return the micro-batches of each step: packed blocks."""
    loader = open_data_module(job.config, micro_batch_size).train_dataloader()
    return ([packed_micro_batch(batch, head) for batch in step] for step in loaded_steps(loader))


def packed_micro_batch(batch: Batch, head: str) -> MicroBatch:
    """Return packed blocks (one block, if only supervised positions have logits)."""
    if head == "all":
        return {**batch, "labels": dense_labels(batch)}
    return {**batch, "logits_to_keep": batch["supervised_index"]}


def padded_steps(
    job: Job, micro_batch_size: int, steps: Iterable[Tensor]
) -> Iterator[list[MicroBatch]]:
    """Return the micro-batches of each step of examples (rows,): those of like length together."""
    blocks = open_blocks(job.config, packing=False)
    lengths = torch.from_numpy(blocks.lengths)

    def micro_batches(rows: Tensor) -> list[MicroBatch]:
        num_labels = blocks.targets_per_document[rows].sum()
        by_length = rows[lengths[rows].argsort()].split(micro_batch_size)
        return [padded_micro_batch(blocks, examples, num_labels) for examples in by_length]

    return map(micro_batches, steps)


def padded_micro_batch(blocks: Blocks, examples: Tensor, num_labels: int) -> MicroBatch:
    """Return rows padded on the right to the longest of them; their step has so many labels."""
    batch = blocks.batch(examples.numpy(), num_labels)
    longest = int(blocks.lengths[examples].max())
    ids, labels = batch["input_ids"][:, :longest], dense_labels(batch)[:, :longest]
    counts = {key: batch[key] for key in ("num_tokens", "denominator")}
    return {"input_ids": ids, "labels": labels, **counts}
