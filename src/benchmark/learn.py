"""Equal work: do the compared runs end at the same held-out loss for the same examples?

Every variant trains a small model from the same weights on the same rows, with one constant
learning rate and no weight decay, until it has seen as many real tokens as the others. Its final
weights are written as a model folder and scored by one scorer: ours, in fp32, on rows that none of
them has seen. All but one see the same examples in each step: ``huggingface_drawn`` shows what
packing itself changes, for its steps hold rows drawn at random. What a variant does otherwise stays
as it is: the article's recipe drops out, looks across the documents of a block, does not clip, and
averages over micro-batches. Its recipe as written has a row in a block, so its steps are others.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from torch import nn

from src.benchmark import article, huggingface, ours, trl_sft
from src.benchmark.config import BenchmarkConfig
from src.benchmark.inputs import (
    open_blocks,
    packed_examples,
    read_pairs,
    with_rows,
    write_inputs,
    write_rows,
)
from src.benchmark.loop import adamw_values
from src.benchmark.part import Part
from src.benchmark.report import Figures, with_spread
from src.benchmark.stopwatch import Finished, Stopwatch
from src.benchmark.turns import Job, Variant, take_turns
from src.data.blocks import Blocks
from src.errors import UserError
from src.model.gpt2 import GPT2
from src.model.loss import supervised_loss
from src.model.pretrained import load_pretrained, save_pretrained

SCORED_BLOCKS = 8  # at a time


def train_trl(job: Job, stopwatch: Stopwatch) -> None:
    """SFTTrainer on the examples of the packed blocks, with our optimizer's values."""
    config, pairs = job.config.optimizer, read_pairs(job.config)
    kept = [pairs[row] for row in open_blocks(job.config).corpus_index]
    arguments = {
        "packing": False,
        "gradient_checkpointing": False,
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": "constant",
        "adam_beta1": config.betas[0],
        "adam_beta2": config.betas[1],
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm or 0.0,
    }
    trl_sft.train_on(job, stopwatch, kept, arguments, 0.0, packed_examples(job.config))


PACKED = {"packed": True, "head": "all", "micro_batch_size": 4, "compile": False}
PADDED = {"packed": False, "head": "all", "micro_batch_size": 8, "compile": False}
ARTICLE = {"packing": True, "micro_batch_size": 1, "adamw": adamw_values}
PUPILS = {
    "ours": ours.train,
    "bare_loop": ours.train_bare_loop,
    "article_packed": partial(article.train, **ARTICLE),
    "huggingface": partial(huggingface.train, **PACKED),
    "huggingface_padded": partial(huggingface.train, **PADDED, examples=packed_examples),
    "huggingface_drawn": partial(huggingface.train, **PADDED),
    "trl": train_trl,
}


def learn(job: Job, stopwatch: Stopwatch, *, pupil: str, num_tokens: int) -> None:
    """Train until so many real tokens have been seen, then write the weights."""
    stopwatch.min_amount = num_tokens
    try:
        PUPILS[pupil](job, stopwatch)
    except Finished:
        save(stopwatch.model, weights_folder(job))
        raise


def weights_folder(job: Job) -> Path:
    """Return where the weights that were learnt lie."""
    return job.folder / "learnt"


def save(model: nn.Module, folder: Path) -> None:
    """Write the weights in Hugging Face's format."""
    folder.mkdir()
    if isinstance(model, article.ArticleGPT):
        weights = model.state_dict()
        model = GPT2(replace(model.config, activation="gelu"))
        model.load_state_dict(weights)
    if isinstance(model, GPT2):
        save_pretrained(model, folder, end_id=0)
    else:
        model.save_pretrained(folder)


def equal_settings(config: BenchmarkConfig, learning_rate: float) -> BenchmarkConfig:
    """Return ``config`` with what every peer can be given: constant rate, no decay, no adapters."""
    optimizer = replace(
        config.optimizer,
        learning_rate=learning_rate,
        weight_decay=0.0,
        warmup_steps=0,
        max_warmup_share=0.0,
        min_learning_rate_ratio=1.0,
        decay_steps=None,
    )
    data = replace(config.data, supervise="responses")
    return replace(config, optimizer=optimizer, data=data, lora=replace(config.lora, rank=None))


def write_held_out(path: Path, config: BenchmarkConfig, shared: BenchmarkConfig) -> Blocks:
    """Return the first turns of the validation rows that ``config`` names, as blocks.

    Raises:
        UserError: there are none, or none fits into a block.
    """
    pairs = read_pairs(config, "validation")
    if not pairs:
        raise UserError("what=learn needs held-out rows: raise data.validation_fraction")
    write_rows(path, pairs)
    blocks = open_blocks(with_rows(shared, path))
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


class Learn(Part):
    """The held-out loss after as many tokens."""

    name = "learn"
    speed = "held_out_loss"
    in_all = False

    def variants(self, device: torch.device, num_tokens: int = 0) -> list[Variant]:
        """Return all who learn, from ``num_tokens`` real tokens each."""
        return [
            Variant(
                name,
                learn,
                ({"pupil": name, "num_tokens": num_tokens},),
                num_warmup_laps=0,
                needs="trl" if name == "trl" else None,
            )
            for name in PUPILS
        ]

    def measure(self, config: BenchmarkConfig, job: Job) -> Figures:
        """Return what each variant came to; the order of the examples hangs on the seed."""
        learn = config.learn
        data = replace(config.data, block_size=learn.block_size)
        config = replace(config, data=data, batch_size=learn.batch_size, repeats=1, seconds=0.0)
        config = equal_settings(config, learn.learning_rate)
        folder = job.folder / "learn"
        shared = write_inputs(folder, config, replace(config.tiny, dropout=0.0), learn.num_rows)
        held_out = write_held_out(folder / "held_out.jsonl", config, shared)
        num_tokens = round(learn.epochs * open_blocks(shared).num_tokens)
        before = held_out_loss(Path(shared.model.pretrained), held_out)
        figures: Figures = {"learn.held_out_loss_before": before}
        losses: dict[str, dict[int, float]] = {}
        for seed in range(shared.seed, shared.seed + learn.seeds):
            part = f"learn_{seed}"
            job = replace(job, config=replace(shared, seed=seed))
            measured = take_turns(part, self.variants(job.device, num_tokens), job)
            for name, variant in measured.items():
                figures[f"learn.{name}.num_tokens"] = variant.repeats[0].amount
                own = replace(job, folder=job.folder / f"{part}_{name}")
                loss = held_out_loss(weights_folder(own), held_out)
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
