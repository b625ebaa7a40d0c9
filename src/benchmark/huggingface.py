"""Hugging Face's GPT2LMHeadModel: in a plain loop at its best setting, and its ``generate``."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GPT2LMHeadModel

from src.benchmark.article import dense_labels
from src.benchmark.inputs import open_blocks, packed_steps
from src.benchmark.ours import autocast
from src.benchmark.stopwatch import Stopwatch
from src.benchmark.workers import Job, Setting
from src.data.blocks import Batch, Blocks
from src.data.order import ResumableLoader
from src.model.loss import IGNORE_INDEX


def load(folder: str, dropout: float) -> GPT2LMHeadModel:
    """Return the model with the weights that all variants share, in fp32 with SDPA."""
    return GPT2LMHeadModel.from_pretrained(
        folder,
        dtype=torch.float32,
        attn_implementation="sdpa",
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        resid_pdrop=dropout,
    )


def train_settings(device: torch.device) -> tuple[Setting, ...]:
    """Return what is tried.

    ``packed``: blocks in which ``position_ids`` keep documents apart; else whole rows of like
    length, padded on the right, which needs no mask. ``micro_batch_size`` counts blocks or rows.
    ``head``: ``all`` positions, or ``supervised`` ones only through ``logits_to_keep``.
    """
    if device.type == "cuda":
        packed = [
            {"packed": True, "head": head, "micro_batch_size": size, "compile": compiled}
            for head in ("all", "supervised")
            for size in (1, 8, 32)
            for compiled in (False, True)
            if head == "all" or size == 1  # logits_to_keep is the same for all rows of a batch
        ]
        padded = [
            {"packed": False, "head": "all", "micro_batch_size": size, "compile": False}
            for size in (8, 64, 256)
        ]
        return (*packed, *padded)
    return tuple(
        {"packed": packed, "head": head, "micro_batch_size": size, "compile": False}
        for packed, head, size in (
            (True, "supervised", 1),
            (True, "all", 4),
            (False, "all", 1),
            (False, "all", 8),
        )
    )


def train(job: Job, stopwatch: Stopwatch) -> None:
    """AdamW (fused), gradients clipped, dropout 0, the precision that ours has."""
    model = load(job.config.model.pretrained, dropout=0.0).to(job.device).train()
    if job.setting["compile"]:
        model.compile()
    config = job.config.optimizer
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=config.learning_rate,
        betas=tuple(config.betas),
        weight_decay=config.weight_decay,
        fused=True,
    )
    scaler = torch.amp.GradScaler(job.device.type, enabled=job.precision == "16-mixed")
    steps = _steps(job)
    stopwatch.begin(model)
    for micro_batches in steps:
        num_labels = sum(int((labels != IGNORE_INDEX).sum()) for _, labels, _ in micro_batches)
        for inputs, labels, _ in micro_batches:
            inputs = {name: tensor.to(job.device) for name, tensor in inputs.items()}
            with autocast(job):
                loss = summed_loss(model, inputs, labels.to(job.device)) / num_labels
            scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        if config.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        stopwatch.lap(sum(num_tokens for _, _, num_tokens in micro_batches))


MicroBatch = tuple[dict[str, Tensor], Tensor, int]  # the model's inputs, labels, real tokens


def summed_loss(model: GPT2LMHeadModel, inputs: dict[str, Tensor], labels: Tensor) -> Tensor:
    """Return the summed loss; ``labels`` are those of the positions whose logits are made.

    No mask and no cache: only then does GPT-2 keep apart what ``position_ids`` say is apart.
    """
    logits = model(**inputs, attention_mask=None, use_cache=False).logits
    return F.cross_entropy(
        logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORE_INDEX, reduction="sum"
    )


def packed_micro_batch(batch: Batch, head: str) -> MicroBatch:
    """Return the model's inputs for packed blocks (one block, if only supervised positions)."""
    inputs = {"input_ids": batch["input_ids"], "position_ids": batch["position_ids"]}
    if head == "all":
        return inputs, dense_labels(batch), batch["num_tokens"]
    inputs["logits_to_keep"] = batch["supervised_index"]
    return inputs, batch["labels"], batch["num_tokens"]


def padded_micro_batch(blocks: Blocks, examples: Tensor) -> MicroBatch:
    """Return rows side by side, padded on the right to the longest of them."""
    batch = blocks.batch(examples.numpy(), 0)
    longest = int(blocks.lengths[examples.numpy()].max())
    inputs = {"input_ids": batch["input_ids"][:, :longest]}
    return inputs, dense_labels(batch)[:, :longest], batch["num_tokens"]


def _steps(job: Job) -> Iterator[list[MicroBatch]]:
    """Yield the micro-batches of one optimizer step after another."""
    config, setting = job.config, job.setting
    micro = min(setting["micro_batch_size"], config.batch_size)
    data = open_blocks(
        config, packing=setting["packed"], batch_size=config.batch_size, micro_batch_size=micro
    )
    if setting["packed"]:
        return _packed_steps(data.train_dataloader(), setting["head"])
    return _padded_steps(job, data.splits["train"])


def _packed_steps(batches: ResumableLoader, head: str) -> Iterator[list[MicroBatch]]:
    step = []
    for batch in batches:
        step.append(packed_micro_batch(batch, head))
        if len(step) == batches.batches.accumulate:
            yield step
            step = []


def _padded_steps(job: Job, blocks: Blocks) -> Iterator[list[MicroBatch]]:
    """``blocks`` hold one row each."""
    lengths = torch.from_numpy(blocks.lengths)
    if job.setting.get("rows") == "as_packed":  # to compare what is learnt
        _, steps = packed_steps(job.config)
        steps = map(torch.from_numpy, steps)
    else:
        steps = _drawn_steps(job, blocks)
    for rows in steps:
        by_length = rows[lengths[rows].argsort()]
        yield [
            padded_micro_batch(blocks, examples)
            for examples in by_length.split(job.setting["micro_batch_size"])
        ]


def _drawn_steps(job: Job, blocks: Blocks) -> Iterator[Tensor]:
    """Yield the rows of each step, drawn: as many as fill the blocks of a packed step."""
    config = job.config
    tokens = config.batch_size * config.data.block_size
    num_rows = max(1, round(tokens * len(blocks) / blocks.num_tokens))
    generator = torch.Generator().manual_seed(config.seed)
    while True:
        yield from torch.randperm(len(blocks), generator=generator).split(num_rows)
