"""Equal work: do the compared runs end at the same held-out loss for the same examples?

Every variant trains the tiny model from the same weights on the same rows, with one constant
learning rate and no weight decay, until it has seen as many real tokens as the others. One scorer,
ours in fp32, scores its weights on rows that none of them has seen. All but ``huggingface_drawn``
see the same examples in each step; its rows are drawn at random, which shows what packing changes.
The rest of a recipe stays: the article's has dropout, attends across the documents of a block,
does not clip, and averages over micro-batches.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from src.benchmark import article, huggingface, ours, trl_sft
from src.benchmark.config import BenchmarkConfig
from src.benchmark.inputs import open_blocks, open_data_module, packed_examples, write_inputs
from src.benchmark.part import Figures, Part, with_spread
from src.benchmark.stopwatch import Finished, Stopwatch
from src.benchmark.turns import Job, Variant, take_turns
from src.data.blocks import Blocks
from src.errors import UserError
from src.model.gpt2 import GPT2
from src.model.loss import supervised_loss
from src.model.pretrained import load_pretrained, save_pretrained

BATCH_SIZE, EPOCHS, LEARNING_RATE = 8, 3.0, 1e-3
LEARNT = "learnt"  # the weights, in a variant's folder
SCORED_BLOCKS = 8  # at a time

huggingface_drawn = partial(huggingface.train_huggingface, packed=False, micro_batch_size=8)
trl: dict[str, Any] = {"packing": False, "dropout": 0.0, "gradient_checkpointing": False}
PUPILS: dict[str, Callable[..., None]] = {
    "ours": ours.train_ours,
    "bare_loop": ours.train_bare_loop,
    "article_packed": partial(article.train_article, packing=True, micro_batch_size=1),
    "huggingface": partial(huggingface.train_huggingface, packed=True, micro_batch_size=4),
    "huggingface_padded": partial(huggingface_drawn, examples=packed_examples),
    "huggingface_drawn": huggingface_drawn,
    "trl": partial(trl_sft.train_trl, **trl, examples=packed_examples),
}


class Learn(Part):
    """The held-out loss after as many tokens; a round is an order of the examples."""

    name = "learn"
    speed = "held_out_loss"
    in_all = False

    def variants(self, device: torch.device, num_tokens: int = 0) -> list[Variant]:
        """Return all who learn, from ``num_tokens`` real tokens each."""
        return [
            Variant(
                name,
                partial(learn, train=train, num_tokens=num_tokens),
                num_warmup_laps=0,
                needs="trl" if name == "trl" else None,
            )
            for name, train in PUPILS.items()
        ]

    def measure(self, config: BenchmarkConfig, job: Job) -> Figures:
        config, folder = equal_settings(config), job.folder / "learn"
        shared = write_inputs(folder, config, replace(config.tiny, dropout=0.0), config.num_rows)
        held_out = open_held_out(config, shared)
        num_tokens = round(EPOCHS * open_blocks(shared).num_tokens)
        before = held_out_loss(Path(shared.model_folder), held_out)
        figures: Figures = {"learn.held_out_loss_before": before}
        losses: dict[str, dict[int, float]] = {}
        for seed in range(config.seed, config.seed + config.repeats):
            part = f"learn_{seed}"
            job = replace(job, config=replace(shared, seed=seed, repeats=1))
            measured = take_turns(part, self.variants(job.device, num_tokens), job)
            for name, variant in measured.items():
                figures[f"learn.{name}.num_tokens"] = variant.repeats[0].amount
                loss = held_out_loss(job.folder / f"{part}_{name}" / LEARNT, held_out)
                losses.setdefault(name, {})[seed] = loss
        return figures | learning_figures(losses)

    def row(self, figures: Figures, name: str) -> dict[str, str]:
        above = figures.get(f"learn.{name}.above_ours")
        keys = f"learn.{name}.held_out_loss", f"learn.{name}.spread"
        return {
            "learn": name,
            "held-out loss": with_spread(figures, *keys, ".4f"),
            "above ours": "" if above is None else f"{above:+.4f}",
        }


def learn(job: Job, stopwatch: Stopwatch, *, train: Callable[..., None], num_tokens: int) -> None:
    """Train until so many real tokens have been seen, then write the weights."""
    stopwatch.min_amount = num_tokens
    try:
        train(job, stopwatch)
    except Finished:
        assert stopwatch.model is not None
        save(stopwatch.model, job.folder / LEARNT)
        raise


def save(model: nn.Module, folder: Path) -> None:
    """Write the weights in Hugging Face's format."""
    folder.mkdir()
    if isinstance(model, PreTrainedModel):
        model.save_pretrained(folder)
    else:
        assert isinstance(model, GPT2)
        save_pretrained(model, folder, end_id=0)


def equal_settings(config: BenchmarkConfig) -> BenchmarkConfig:
    """Return ``config`` with what every peer can be given: constant rate, no decay, no adapters."""
    optimizer = replace(
        config.optimizer,
        learning_rate=LEARNING_RATE,
        weight_decay=0.0,
        warmup_steps=0,
        max_warmup_share=0.0,
        min_learning_rate_ratio=1.0,
        decay_steps=None,
    )
    data = replace(config.data, supervise="responses", block_size=config.tiny.n_positions)
    lora = replace(config.lora, rank=None)
    equal: dict[str, Any] = {
        "optimizer": optimizer,
        "data": data,
        "lora": lora,
        "batch_size": BATCH_SIZE,
    }
    return replace(config, **equal, seconds=0.0)


def open_held_out(config: BenchmarkConfig, shared: BenchmarkConfig) -> Blocks:
    """Return the validation rows that ``config`` names, as blocks; UserError if there are none."""
    named = replace(config.data, corpus_dir=shared.data.corpus_dir)
    blocks = open_data_module(replace(shared, data=named), 1).splits["validation"]
    if not len(blocks):
        raise UserError("what=learn needs held-out rows: raise data.validation_fraction")
    return blocks


@torch.inference_mode()
def held_out_loss(folder: Path, blocks: Blocks) -> float:
    """Return the mean loss of the model in ``folder`` over the supervised tokens of ``blocks``."""
    model = load_pretrained(str(folder)).eval()
    loss = 0.0
    for numbers in np.array_split(np.arange(len(blocks)), -(-len(blocks) // SCORED_BLOCKS)):
        batch = blocks.batch(numbers, blocks.num_targets)
        hidden = model(batch["input_ids"], batch["position_ids"], batch["cu_seqlens"])
        sums = supervised_loss(model, hidden, batch["supervised_index"], batch["labels"])
        loss += float(sums.loss) / blocks.num_targets
    return loss


def learning_figures(losses: dict[str, dict[int, float]]) -> Figures:
    """Return ``learn.<variant>.held_out_loss`` and how far it is from ours, seed by seed."""
    figures: Figures = {}
    for name, by_seed in losses.items():
        figures |= {
            f"learn.{name}.held_out_loss": mean(by_seed.values()),
            f"learn.{name}.losses": {str(seed): loss for seed, loss in by_seed.items()},
            f"learn.{name}.spread": [min(by_seed.values()), max(by_seed.values())],
        }
        ours_too = losses.get("ours", {}).keys() & by_seed.keys()
        if name != "ours" and ours_too:
            above = mean(by_seed[seed] - losses["ours"][seed] for seed in ours_too)
            figures[f"learn.{name}.above_ours"] = above
    return figures
