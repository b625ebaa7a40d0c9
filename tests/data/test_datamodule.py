import json
from types import SimpleNamespace

import pytest
import torch

from src.data.datamodule import ChatDataModule, open_data
from src.data.order import Batching
from src.data.sources import SPLITS
from src.errors import UserError

ROWS = {
    "train": [(f"question {i}", f"answer {i} " * (1 + i % 4)) for i in range(60)],
    "validation": [("question 3", "other"), ("question 5", "other"), *[("v", "A " * 40)] * 5],
    "test": [(f"test {i}", "A") for i in range(9)],
}


@pytest.fixture
def files(tmp_path) -> dict[str, str]:
    """A file for each split: the values of ``conf/data`` that name them."""
    paths = {}
    for split, rows in ROWS.items():
        path = tmp_path / f"{split}.jsonl"
        lines = (json.dumps({"prompt": p, "response": r}) + "\n" for p, r in rows)
        path.write_text("".join(lines))
        paths["path" if split == "train" else f"{split}_split"] = str(path)
    return {"source": "file", **paths}


@pytest.fixture
def make(data_config, files, tokenizer):
    def data_module(batch_size=4, micro_batch_size=2, num_steps=None, seed=1, **changes):
        config = data_config(**files | changes)
        source, _ = open_data(config, None, 300)
        data = ChatDataModule(
            config,
            tokenizer,
            source,
            block_size=config.block_size,
            batching=Batching.of(batch_size, 1, micro_batch_size),
            max_steps=num_steps,
            seed=seed,
        )
        data.setup()
        return data

    return data_module


def on_rank(data: ChatDataModule, rank: int, world_size: int) -> ChatDataModule:
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    data.trainer = SimpleNamespace(global_rank=rank, world_size=world_size, strategy=strategy)
    data.batching = Batching.of(data.batching.batch_size, world_size, 2)
    return data


def rows_of(batches, end_id: int) -> list[tuple[int, ...]]:
    """All blocks of the batches as tuples of ids, fillers left out; sorted."""
    rows = (tuple(row) for batch in batches for row in batch["input_ids"].tolist())
    return sorted(row for row in rows if set(row) != {end_id})


def all_blocks(data: ChatDataModule, split: str) -> list[tuple[int, ...]]:
    blocks = data.splits[split]
    return rows_of([blocks.batch(range(len(blocks)), 0)], blocks.end_id)


def test_rows_become_blocks_of_every_split(make, tokenizer):
    data = make()
    assert data.report.used == {split: len(rows) for split, rows in ROWS.items()}
    assert [data.splits[split].num_examples for split in SPLITS] == [60, 7, 9]
    texts = [tokenizer.decode(row) for row in all_blocks(data, "test")]
    for prompt, response in ROWS["test"]:
        example = f"### Prompt: {prompt}\n### Response: {response}<|endoftext|>"
        assert sum(text.count(example) for text in texts) == 1


def test_an_epoch_of_training_sees_every_block_once(make, tokenizer):
    data = make()
    num_blocks = len(data.splits["train"])
    assert num_blocks % 4, "the last global batch is short"
    assert data.steps_per_epoch == num_blocks // 4 + 1
    loader = data.train_dataloader()
    assert len(loader) == data.steps_per_epoch * 2
    batches = list(loader)
    assert rows_of(batches, tokenizer.end_id) == all_blocks(data, "train")
    labels = sum(len(batch["labels"]) for batch in batches)
    assert labels == data.splits["train"].num_targets
    assert sum(batch["denominator"] for batch in batches[::2]) == labels


def test_a_run_of_several_epochs_is_one_long_loader(make):
    data = make(num_steps=100)
    assert data.steps_per_epoch < 100
    assert len(data.train_dataloader()) == 200


@pytest.mark.parametrize("split", ["validation", "test"])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_scoring_covers_every_block_once_over_all_ranks(make, tokenizer, split, world_size):
    """Ranks that have fewer blocks get padding: each runs as many batches."""
    data = make(micro_batch_size=3)  # 4 blocks a step: 2 or 1 at a time
    batches, lengths = [], set()
    for rank in range(world_size):
        on_rank(data, rank, world_size)
        (loader,) = data.val_dataloader() if split == "validation" else data.test_dataloader()
        mine = list(loader)
        assert len(mine) == len(loader)
        lengths.add(len(mine))
        batches += mine
    assert len(lengths) == 1
    assert rows_of(batches, tokenizer.end_id) == all_blocks(data, split)
    assert sum(len(batch["labels"]) for batch in batches) == data.splits[split].num_targets
    assert len({batch["input_ids"].shape for batch in batches}) == 1


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_train_on_the_same_steps_as_one(make, tokenizer, world_size):
    data = make()
    whole = rows_of(data.train_dataloader(), tokenizer.end_id)
    parts = []
    for rank in range(world_size):
        loader = on_rank(data, rank, world_size).train_dataloader()
        accumulate = 4 // world_size // loader.batches.batching.micro_batch_size
        assert len(loader) == data.steps_per_epoch * accumulate
        parts += loader
    assert rows_of(parts, tokenizer.end_id) == whole


def test_devices_that_do_not_divide_the_batch_are_refused(make):
    with pytest.raises(UserError, match="batch_size=4 cannot be shared by 3 devices"):
        on_rank(make(), 0, 3)


def test_shared_prompts_are_counted(make):
    data = make()
    assert data.shared_prompts("validation") == 2
    assert data.shared_prompts("test") == 0


def test_without_packing_only_training_is_unpacked(make):
    data = make(packing=False)
    assert len(data.splits["train"]) == 60
    assert len(data.splits["test"]) < 9


def test_the_corpus_is_read_once_however_often_it_is_set_up(make):
    data = make()
    opened = data.splits["train"]
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    assert data.splits["train"] is opened
    assert data.folder.name == data.key


def test_another_block_size_finds_the_same_corpus(make):
    assert make().folder == make(block_size=128).folder
    assert make(supervise="article").folder != make().folder


def test_an_empty_split_gives_no_batches(make):
    data = make(validation_split=None, test_split=None)
    assert list(data.val_dataloader()) == list(data.test_dataloader()) == []
    assert data.shared_prompts("validation") == 0


def test_the_conversations_of_a_split_can_be_read_again(make):
    turns = [conversation.turns[0] for conversation in make().conversations("test")]
    assert turns == ROWS["test"]


def test_a_tokenizer_is_trained_on_the_training_rows_alone(data_config, files):
    _, trained = open_data(data_config(**files), None, 300)
    alone = data_config(**files | {"validation_split": None, "test_split": None})
    assert open_data(alone, None, 300)[1].fingerprint() == trained.fingerprint()
    assert len(trained.encode(" question")) < len(" question"), "a word of the training rows"


def test_a_named_tokenizer_is_loaded(data_config, files, tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    _, loaded = open_data(data_config(**files), str(tmp_path), 300)
    assert loaded.fingerprint() == tokenizer.fingerprint()
