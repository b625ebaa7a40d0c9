"""A bounded split: the same rows in all runs, drawn by chance, as many as fill the blocks."""

import json
from itertools import pairwise

import numpy as np
import pytest

from src.data.blocks import Blocks
from src.data.datamodule import ChatDataModule, open_data
from src.data.order import Batching
from src.data.subset import subset
from tests.data.conftest import corpus_of

BLOCK = 16
EIGHT = Batching(8, 1, 8)


def blocks(lengths, prompts=None, sources=None) -> Blocks:
    corpus = corpus_of(*[([1] * n, [0] * (n - 1) + [1]) for n in lengths])
    rng = np.random.default_rng(0)
    values = {"prompts": rng.integers(0, 2**64, len(lengths), dtype=np.uint64)}
    if prompts is not None:
        values["prompts"] = prompts
    values["sources"] = np.zeros(len(lengths), np.uint16) if sources is None else sources
    for name, array in values.items():
        object.__setattr__(corpus, name, array)
    return Blocks.build(corpus, BLOCK, True, 0)


@pytest.fixture(scope="module")
def whole() -> Blocks:
    return blocks(np.random.default_rng(1).integers(2, BLOCK + 1, 2000))


@pytest.mark.parametrize("number", [1, 2, 7, 100, 500])
def test_it_fills_the_blocks_and_no_more(whole, number):
    chosen = subset(whole, number)
    part = Blocks.build(whole.corpus, BLOCK, True, 0, copies=chosen.astype(np.int64))
    assert len(part) == number
    assert part.num_tokens > 0.7 * (number - 1) * BLOCK


def test_a_smaller_one_is_part_of_a_larger_one(whole):
    sizes = [subset(whole, number) for number in (3, 30, 300)]
    for small, large in pairwise(sizes):
        assert (large | ~small).all()
        assert large.sum() > small.sum()


def test_it_is_drawn_by_chance_and_not_the_first_rows(whole):
    chosen = np.flatnonzero(subset(whole, 100))
    assert 0.4 < chosen.mean() / len(whole.corpus.lengths) < 0.6
    lengths = np.asarray(whole.corpus.lengths)
    assert lengths[chosen].mean() == pytest.approx(lengths.mean(), rel=0.15)


def test_rows_that_come_or_go_leave_the_others_where_they_are():
    rng = np.random.default_rng(2)
    lengths = rng.integers(2, BLOCK + 1, 1000)
    prompts = rng.integers(0, 2**64, 1000, dtype=np.uint64)
    before = subset(blocks(lengths, prompts), 50)
    fewer = subset(blocks(lengths[:950], prompts[:950]), 50)
    kept = before[:950] & fewer
    assert kept.sum() > 0.9 * before.sum()


def test_each_source_has_a_row_even_where_they_are_more_than_the_blocks():
    sources = np.array([0] * 500 + [1] * 3 + [2] * 1, np.uint16)
    whole = blocks([8] * 504, sources=sources)
    chosen = subset(whole, 2)
    assert set(sources[chosen].tolist()) == {0, 1, 2}
    chosen = subset(whole, 20)
    assert np.bincount(sources[chosen], minlength=3).tolist()[1:] in ([1, 1], [2, 1])


def test_rows_without_a_target_are_not_chosen():
    corpus = corpus_of(*[([1] * 8, [0] * 7 + [number % 2]) for number in range(100)])
    prompts = np.random.default_rng(0).integers(0, 2**64, 100, dtype=np.uint64)
    object.__setattr__(corpus, "prompts", prompts)
    object.__setattr__(corpus, "sources", np.zeros(100, np.uint16))
    chosen = np.flatnonzero(subset(Blocks.build(corpus, BLOCK, True, 0), 5))
    assert len(chosen) == 10
    assert (chosen % 2 == 1).all()


# In a data module.


@pytest.fixture
def make(tmp_path, data_config, tokenizer):
    (tmp_path / "tokenizer").mkdir()
    tokenizer.save(tmp_path / "tokenizer")
    rows = [{"prompt": f"{i} asks {i * i}", "response": f"so {i}"} for i in range(400)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))

    def data(limit: int | None, batching: Batching = EIGHT, **changes) -> ChatDataModule:
        path = str(tmp_path / "rows.jsonl")
        config = data_config(
            source="file", path=path, validation_fraction=0.3, test_fraction=0.2, **changes
        )
        source, loaded = open_data(config, str(tmp_path / "tokenizer"), 300)
        made = ChatDataModule(config, loaded, source, block_size=64, batching=batching, seed=0)
        made.setup()
        made.limits = {"validation": limit, "test": limit}
        return made

    return data


def ids(data: ChatDataModule) -> list[list[int]]:
    """The tokens of every document that is validated."""
    found = []
    for loader in data.val_dataloader():
        for batch in loader:
            tokens = batch["input_ids"].flatten().numpy()
            found += [
                piece.tolist()
                for piece in np.split(tokens, batch["cu_seqlens"][1:-1])
                if (piece != data.tokenizer.end_id).any()
            ]
    return sorted(found)


def test_the_rows_do_not_depend_on_batches_or_devices(make):
    expected = ids(make(5))
    assert expected
    for batching in (Batching(1, 1, 1), Batching(32, 1, 4), Batching(64, 1, 64)):
        assert ids(make(5, batching)) == expected
    assert len(ids(make(None))) > len(expected)
    assert all(document in ids(make(None)) for document in expected)


def test_a_limit_that_is_not_reached_changes_nothing(make):
    whole = make(None)
    number = len(whole.splits["validation"])
    for limit in (number, number + 1, 10**6):
        assert make(limit).by_source("validation")["rows"].packing.checksum == (
            whole.by_source("validation")["rows"].packing.checksum
        )


def test_few_blocks_are_not_filled_up_with_empty_ones(make):
    (loader,) = make(1, Batching(64, 1, 64)).val_dataloader()
    (batch,) = loader
    assert batch["input_ids"].shape[0] == 1


def test_the_conversations_of_a_bounded_split_are_those_scored(make):
    data, whole = make(3), make(None)
    blocks = data.by_source("test")["rows"]
    found = data.conversations("test")
    assert len(found) == blocks.num_examples < len(whole.conversations("test"))
    texts = {data.tokenizer.decode(document) for document in documents(blocks)}
    for conversation in found:
        ((prompt, response),) = conversation.turns
        assert any(prompt in text and response in text for text in texts)
    assert data.conversations("train") == whole.conversations("train")


def documents(blocks: Blocks) -> list[list[int]]:
    starts = blocks.corpus.offsets[blocks.corpus_index]
    return [
        blocks.corpus.input_ids[start : start + length].tolist()
        for start, length in zip(starts, blocks.lengths, strict=True)
    ]
