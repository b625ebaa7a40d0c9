"""What all variants share: the same rows, the same tokenizer, the same random weights, on disk."""

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from src.benchmark.config import BenchmarkConfig
from src.data.batch import Batch
from src.data.blocks import Blocks
from src.data.datamodule import ChatDataModule, open_data
from src.data.order import Batching
from src.data.sources import RowReport, open_source
from src.data.tokenizer import load_tokenizer
from src.errors import UserError
from src.files import atomic
from src.model.config import ModelConfig
from src.model.gpt2 import GPT2
from src.model.loss import IGNORE_INDEX
from src.talk.model_folder import save_model_folder

ENDLESS = 1_000_000  # optimizer steps: more than anyone measures


def write_inputs(
    folder: Path, config: BenchmarkConfig, model: ModelConfig, num_rows: int
) -> BenchmarkConfig:
    """Write rows, tokenizer and random weights into ``folder``; return a config that reads them.

    The rows are ``num_rows`` of the training split, drawn by ``config.seed``. A conversation of
    several turns gives its first one, and no system text, for the peers' formats hold only that.
    Raises UserError if the rows or the tokenizer cannot be had.
    """
    if model.pretrained is not None:
        raise UserError(
            f"model.pretrained={model.pretrained}: the benchmark gives every variant the same "
            f"random weights; leave it null and name a size with model=..."
        )
    _refuse_unusual_blocks(config)
    folder.mkdir(parents=True)
    _, tokenizer = open_data(config.data, model.tokenizer, model.vocab_size)
    pairs = read_pairs(config)
    drawn = np.random.default_rng(config.seed).permutation(len(pairs))[:num_rows]
    rows = (dict(zip(("prompt", "response"), pairs[row], strict=True)) for row in drawn)
    atomic.write_text(folder / "rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    torch.manual_seed(config.seed)
    vocab_size = max(model.vocab_size, tokenizer.vocab_size)
    weights = GPT2(replace(model.shape(vocab_size), dropout=0.0))
    name = str(folder / "model")
    save_model_folder(folder / "model", weights, tokenizer, config.generation)
    data = replace(
        config.data,
        source="file",
        path=str(folder / "rows.jsonl"),
        corpus_dir=str(folder / "corpora"),
        block_size=config.data.block_size or model.n_positions,
        validation_fraction=0.0,
        test_fraction=0.0,
        train_split=None,
        validation_split=None,
        test_split=None,
        share=None,
        part=None,
        columns=None,
        max_rows=None,
    )
    return replace(
        config,
        data=data,
        model=replace(model, pretrained=name, tokenizer=name),
        max_steps=ENDLESS,
        resume=None,
        sample_prompts=[],
        exact_match=False,
    )


def _refuse_unusual_blocks(config: BenchmarkConfig) -> None:
    """Check that blocks are read as the peers read them: what ablations change is not theirs."""
    data = config.data
    for key, default in (
        ("isolate_documents", True),
        ("reset_positions", True),
        ("prompt_loss_weight", 0.0),
    ):
        if (value := getattr(data, key)) != default:
            raise UserError(
                f"data.{key}={value}: the benchmark's variants all learn from isolated examples "
                f"and their responses; leave it out"
            )


def describe_inputs(shared: BenchmarkConfig, path: str | None) -> dict[str, str | float]:
    """Return what the figures are of; UserError if no row fits into a block."""
    blocks = open_blocks(shared)
    if not len(blocks):
        raise UserError("no row fits into a block: raise data.block_size")
    return {
        "rows.source": path or "the embedded corpus",
        "rows.num": blocks.num_examples,
        "rows.mean_tokens": blocks.num_tokens / blocks.num_examples,
        "rows.supervised_share": blocks.num_targets / blocks.num_tokens,
        "rows.block_size": blocks.block_size,
        "batch_size": shared.batch_size,
        "model.n_layer": shared.model.n_layer,
        "model.n_embd": shared.model.n_embd,
    }


def read_pairs(config: BenchmarkConfig) -> list[tuple[str, str]]:
    """Return prompt and response of the first turns of the training rows that ``config`` names."""
    conversations = open_source(config.data).conversations(RowReport())
    return [conversation.turns[0] for split, conversation in conversations if split == "train"]


def open_data_module(
    config: BenchmarkConfig, micro_batch_size: int, packing: bool = True
) -> ChatDataModule:
    """Return the shared rows as blocks, ready to load: packed, or one row a block."""
    data = ChatDataModule(
        replace(config.data, packing=packing),
        load_tokenizer(config.model_folder),
        open_source(config.data),
        block_size=config.block_size,
        batching=Batching.of(config.batch_size, 1, micro_batch_size),
        max_steps=ENDLESS,
        seed=config.seed,
    )
    data.setup()
    return data


def open_blocks(config: BenchmarkConfig, packing: bool = True) -> Blocks:
    """Return the shared rows as blocks: packed, or one row a block."""
    return open_data_module(config, 1, packing).splits["train"]


def dense_labels(batch: Batch) -> Tensor:
    """Return (B, T): at each position the token that is due next, or the ignore index."""
    labels = torch.full_like(batch["input_ids"], IGNORE_INDEX)
    labels.view(-1)[batch["supervised_index"]] = batch["labels"]
    return labels


def rows_per_step(config: BenchmarkConfig) -> int:
    """Return how many rows have about as many tokens as a step of packed blocks."""
    blocks = open_blocks(config, packing=False)
    tokens = config.batch_size * config.block_size
    return max(1, round(tokens * len(blocks) / blocks.num_tokens))


def packed_examples(config: BenchmarkConfig) -> Iterator[Tensor]:
    """Yield without end the examples (rows,) that each packed step holds.

    They are counted as in ``Blocks.corpus_index``, which does not depend on packing.
    """
    batches = open_data_module(config, config.batch_size).train_dataloader().batches
    for step in count():
        blocks = [batches.blocks.packing[block] for block in batches.global_batch(step)]
        yield torch.from_numpy(np.concatenate(blocks))


def drawn_examples(config: BenchmarkConfig) -> Iterator[Tensor]:
    """Yield without end examples (rows,) drawn at random, about as many as a packed step holds."""
    num_examples, num_rows = open_blocks(config).num_examples, rows_per_step(config)
    generator = torch.Generator().manual_seed(config.seed)
    while True:
        yield from torch.randperm(num_examples, generator=generator).split(num_rows)
