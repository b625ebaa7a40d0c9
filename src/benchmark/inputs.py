"""What all variants share: the same rows, the same tokenizer, the same random weights, on disk."""

import json
from collections.abc import Iterator
from dataclasses import fields, replace
from itertools import count
from pathlib import Path

import numpy as np
import torch

from src.data.blocks import Blocks
from src.data.datamodule import ChatDataModule, open_data
from src.data.order import Batching
from src.data.sources import RowReport, open_source
from src.data.tokenizer import load_tokenizer
from src.errors import UserError
from src.model.config import ModelConfig
from src.model.gpt2 import GPT2
from src.talk.model_folder import save_model_folder
from src.training.config import TrainConfig

ENDLESS = 1_000_000  # optimizer steps: more than anyone measures


def write_inputs(
    folder: Path, config: TrainConfig, model: ModelConfig, num_rows: int
) -> TrainConfig:
    """Write rows, tokenizer and random weights into ``folder``; return a config that reads them.

    The rows are ``num_rows`` of the training split, drawn by ``config.seed``. A conversation of
    several turns gives its first one, and no system text, for the peers' formats hold only that.

    Raises:
        UserError: the rows or the tokenizer cannot be had.
    """
    if model.pretrained is not None:
        raise UserError(
            f"model.pretrained={model.pretrained}: the benchmark gives every variant the same "
            f"random weights; leave it null and name a size with model=..."
        )
    folder.mkdir(parents=True, exist_ok=True)
    source, tokenizer = open_data(config.data, model.tokenizer, model.vocab_size)
    path = folder / "rows.jsonl"
    conversations = source.conversations(RowReport())
    pairs = [conversation.turns[0] for split, conversation in conversations if split == "train"]
    drawn = np.random.default_rng(config.seed).permutation(len(pairs))[:num_rows]
    with path.open("w") as file:
        for row in drawn:
            prompt, response = pairs[row]
            file.write(json.dumps({"prompt": prompt, "response": response}) + "\n")
    vocab_size = max(model.vocab_size, tokenizer.vocab_size)
    torch.manual_seed(config.seed)
    weights = GPT2(replace(model.shape(vocab_size), dropout=0.0))
    save_model_folder(folder / "model", weights, tokenizer, config.generation)
    rows = replace(
        config.data,
        source="file",
        path=str(path),
        train_split=None,
        validation_split=None,
        test_split=None,
        validation_fraction=0.0,
        test_fraction=0.0,
        columns=None,
        max_rows=None,
        block_size=config.data.block_size or model.n_positions,
        corpus_dir=str(folder / "corpora"),
    )
    own = str(folder / "model")
    given = {field.name: getattr(config, field.name) for field in fields(TrainConfig)}
    return TrainConfig(
        **given
        | {
            "data": rows,
            "model": replace(model, pretrained=own, tokenizer=own),
            "max_steps": ENDLESS,
            "resume": None,
            "sample_prompts": [],
            "exact_match": False,
        }
    )


def open_blocks(
    config: TrainConfig, *, packing: bool, batch_size: int, micro_batch_size: int
) -> ChatDataModule:
    """Return the shared rows as blocks, ready to load: packed, or one row a block."""
    data = ChatDataModule(
        replace(config.data, packing=packing),
        load_tokenizer(config.model.tokenizer),
        open_source(config.data),
        block_size=config.data.block_size,
        batching=Batching.of(batch_size, 1, micro_batch_size),
        max_steps=ENDLESS,
        seed=config.seed,
    )
    data.setup()
    return data


def packed_steps(config: TrainConfig) -> tuple[Blocks, Iterator[np.ndarray]]:
    """Return the packed blocks and, without end, the examples (rows,) that each step sees.

    They are counted as in ``Blocks.kept``, which does not depend on packing.
    """
    size = config.batch_size
    data = open_blocks(config, packing=True, batch_size=size, micro_batch_size=size)
    batches = data.train_dataloader().batches
    blocks = batches.blocks

    def examples(step: int) -> np.ndarray:
        return np.concatenate([blocks.packing[block] for block in batches.global_batch(step)])

    return blocks, map(examples, count())


def read_pairs(config: TrainConfig) -> list[tuple[str, str]]:
    """Return the shared rows as (prompt, response)."""
    conversations = open_source(config.data).conversations(RowReport())
    return [conversation.turns[0] for _, conversation in conversations]
