"""Equal work: do the compared runs end at the same held-out loss for the same examples?

Every variant trains a small model from the same weights on the same rows, with one constant
learning rate and no weight decay, until it has seen as many real tokens as the others. Its final
weights are written as a model folder and scored by one scorer: ours, in fp32, on rows that none of
them has seen. All but one see the same examples in each step: ``huggingface_drawn`` shows what
packing itself changes, for its steps hold rows drawn at random. What a variant does otherwise stays
as it is: the article's recipe drops out, looks across the documents of a block, does not clip, and
averages over micro-batches. Its recipe as written has a row in a block, so its steps are others.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import singledispatch
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from transformers import GPT2LMHeadModel

from src.benchmark import article, huggingface, ours, trl_sft
from src.benchmark.article import ArticleGPT, shared_names
from src.benchmark.inputs import open_blocks
from src.benchmark.rounds import measure
from src.benchmark.stopwatch import Finished, Stopwatch
from src.benchmark.workers import Job, Variant
from src.data.blocks import Blocks
from src.data.sources import RowReport, open_source
from src.errors import UserError
from src.model.gpt2 import GPT2
from src.model.loss import supervised_loss
from src.model.pretrained import load_pretrained, save_pretrained
from src.training.config import OptimizerConfig, TrainConfig

PADDED = {"packed": False, "head": "all", "micro_batch_size": 8, "compile": False}
PUPILS = {
    "ours": (ours.train, {}),
    "bare_loop": (ours.train_bare_loop, {}),
    "blog_packed": (article.train_packed, {"micro_batch_size": 1, "optimizer": "config"}),
    "huggingface": (
        huggingface.train,
        {"packed": True, "head": "all", "micro_batch_size": 4, "compile": False},
    ),
    "huggingface_padded": (huggingface.train, PADDED | {"rows": "as_packed"}),
    "huggingface_drawn": (huggingface.train, PADDED),
    "trl": (
        trl_sft.train,
        {
            "packing": False,
            "rows": "as_packed",
            "dropout": 0.0,
            "gradient_checkpointing": False,
            "optimizer": "config",
        },
    ),
}
SCORED_BLOCKS = 8  # at a time


class Lesson:
    """Takes a stopwatch's place: the work ends when enough tokens have been seen."""

    def __init__(self, num_tokens: int):
        self.num_tokens_left = num_tokens
        self.model: nn.Module | None = None

    def begin(self, model: nn.Module) -> None:
        """Remember what learns."""
        self.model = model

    def lap(self, amount: int | Tensor) -> None:
        """Count a step of so many tokens.

        Raises:
            Finished: it was the last one.
        """
        self.num_tokens_left -= int(amount)
        if self.num_tokens_left <= 0:
            raise Finished


def pupils(num_tokens: int) -> list[Variant]:
    """Return the variants, each of which learns from ``num_tokens`` real tokens."""
    return [
        Variant(
            name,
            learn,
            ({"num_tokens": num_tokens, "variant": name},),
            needs="trl" if name == "trl" else None,
            num_warmup_laps=0,
        )
        for name in PUPILS
    ]


def learn(job: Job, stopwatch: Stopwatch) -> None:
    """Train as the variant that the setting names, then write its weights; one lap is all of it."""
    work, setting = PUPILS[job.setting["variant"]]
    lesson = Lesson(job.setting["num_tokens"])
    stopwatch.begin()
    try:
        work(replace(job, setting=setting), lesson)
    except Finished:
        pass
    else:
        raise RuntimeError(f"{job.setting['variant']} stopped with {lesson.num_tokens_left} to go")
    folder = model_folder(job)
    folder.mkdir()
    save(lesson.model, folder)
    stopwatch.lap(job.setting["num_tokens"] - lesson.num_tokens_left)


def model_folder(job: Job) -> Path:
    """Return where the weights that were learnt lie."""
    return job.folder / "learnt"


@singledispatch
def save(model: nn.Module, folder: Path) -> None:
    """Write the weights in Hugging Face's format."""
    raise TypeError(f"no way to write a {type(model).__name__}")


@save.register
def _(model: GPT2, folder: Path) -> None:
    save_pretrained(model, folder, end_id=0)


@save.register
def _(model: GPT2LMHeadModel, folder: Path) -> None:
    model.save_pretrained(folder)


@save.register
def _(model: ArticleGPT, folder: Path) -> None:
    shared = GPT2(replace(model.config, activation="gelu"))
    names = shared_names(shared)
    state = model.state_dict()
    shared.load_state_dict({name: state[own] for name, own in names.items()})
    save_pretrained(shared, folder, end_id=0)


def equal_settings(config: TrainConfig, learning_rate: float) -> TrainConfig:
    """Return ``config`` with what every peer can be given: constant rate, no decay, no adapters."""
    optimizer = OptimizerConfig(
        learning_rate=learning_rate,
        betas=config.optimizer.betas,
        weight_decay=0.0,
        warmup_steps=0,
        max_warmup_share=0.0,
        min_learning_rate_ratio=1.0,
        decay_steps=None,
        max_grad_norm=config.optimizer.max_grad_norm,
    )
    data = replace(config.data, supervise="responses")
    lora = replace(config.lora, rank=None)
    return replace(config, optimizer=optimizer, data=data, lora=lora)


def write_held_out(folder: Path, given: TrainConfig, shared: TrainConfig) -> Blocks:
    """Return the first turns of the validation rows that ``given`` names, as blocks of their own.

    Raises:
        UserError: there are none, or none fits into a block.
    """
    conversations = open_source(given.data).conversations(RowReport())
    pairs = [c.turns[0] for split, c in conversations if split == "validation"]
    if not pairs:
        raise UserError("what=learn needs held-out rows: raise data.validation_fraction")
    path = folder / "held_out.jsonl"
    with path.open("w") as file:
        for prompt, response in pairs:
            file.write(json.dumps({"prompt": prompt, "response": response}) + "\n")
    own = replace(shared, data=replace(shared.data, path=str(path)))
    blocks = open_blocks(own, packing=True, batch_size=1, micro_batch_size=1).splits["train"]
    if not len(blocks):
        raise UserError("what=learn: no held-out row fits into a block: raise learn.block_size")
    return blocks


@torch.inference_mode()
def held_out_loss(folder: Path, blocks: Blocks) -> float:
    """Return the mean loss of the model in ``folder`` over the supervised tokens of ``blocks``."""
    model = load_pretrained(str(folder)).eval()
    loss, num_labels = 0.0, 0
    for start in range(0, len(blocks), SCORED_BLOCKS):
        batch = blocks.batch(np.arange(start, min(start + SCORED_BLOCKS, len(blocks))), 0)
        hidden = model(batch["input_ids"], batch["position_ids"], batch["cu_seqlens"])
        sums = supervised_loss(model, hidden, batch["supervised_index"], batch["labels"])
        loss += float(sums.loss)
        num_labels += int(sums.num_supervised)
    return loss / num_labels


@dataclass
class LearnConfig:
    """The ``learn`` of ``conf/benchmark.yaml``; its comments say what each value means."""

    num_rows: int
    block_size: int
    batch_size: int
    epochs: float
    learning_rate: float
    seeds: int

    def __post_init__(self) -> None:
        """Check ranges; raise UserError naming the key."""
        for key in ("num_rows", "block_size", "batch_size", "seeds"):
            if getattr(self, key) < 1:
                raise UserError(f"learn.{key}={getattr(self, key)}: must be at least 1")
        for key in ("epochs", "learning_rate"):
            if not 0 < getattr(self, key) < float("inf"):
                raise UserError(f"learn.{key}={getattr(self, key)}: must be above 0, and finite")


@dataclass
class Learnt:
    """What a variant came to."""

    losses: dict[int, float]  # by seed
    num_tokens: int


def measure_learning(
    job: Job, variants: Sequence[Variant], held_out: Blocks, num_seeds: int
) -> dict[str, Learnt]:
    """Return what each variant came to; the order of the examples hangs on the seed."""
    learnt: dict[str, Learnt] = {}
    for number in range(num_seeds):
        config = replace(job.config, seed=job.config.seed + number)
        own = replace(job, config=config)
        part = f"learn_{number}"
        measured = measure(part, list(variants), own, num_rounds=1, seconds=0.0, keep_alive=False)
        for name, variant in measured.items():
            folder = own.folder / f"{part}_{name}_0"
            loss = held_out_loss(model_folder(replace(own, folder=folder)), held_out)
            seen = learnt.setdefault(name, Learnt({}, variant.repeats[0].amount))
            seen.losses[config.seed] = loss
    return learnt


def learning_figures(learnt: dict[str, Learnt], untrained: float) -> dict[str, object]:
    """Return ``learn.<variant>.held_out_loss`` and how far it is from ours, seed by seed."""
    figures: dict[str, object] = {"learn.held_out_loss_before": untrained}
    for name, variant in learnt.items():
        losses = variant.losses.values()
        figures |= {
            f"learn.{name}.held_out_loss": mean(losses),
            f"learn.{name}.losses": {str(seed): loss for seed, loss in variant.losses.items()},
            f"learn.{name}.spread": [min(losses), max(losses)],
            f"learn.{name}.num_tokens": variant.num_tokens,
        }
        if "ours" in learnt and name != "ours":
            own = learnt["ours"].losses
            above = [loss - own[seed] for seed, loss in variant.losses.items() if seed in own]
            if above:
                figures[f"learn.{name}.above_ours"] = mean(above)
    return figures


def show_learning(figures: dict[str, object], console: Console) -> None:
    """Print the losses as a table."""
    names = [name.split(".")[1] for name in figures if name.endswith(".losses")]
    if not names:
        return
    table = Table("learn", "held-out loss", "lowest - highest seed", "above ours")
    for name, loss, spread, above in _rows(figures, names):
        table.add_row(name, loss, spread, above)
    console.print(table)


def _rows(figures: dict[str, object], names: list[str]) -> Iterator[tuple[str, ...]]:
    for name in names:
        low, high = figures[f"learn.{name}.spread"]
        above = figures.get(f"learn.{name}.above_ours")
        yield (
            name,
            f"{figures[f'learn.{name}.held_out_loss']:.4f}",
            f"{low:.4f} - {high:.4f}",
            "" if above is None else f"{above:+.4f}",
        )
