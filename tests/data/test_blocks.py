from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from src.data.blocks import FILLER, Blocks
from src.data.corpus import Corpus
from src.data.packing import Packing
from src.data.targets import Labels
from src.errors import UserError
from tests.data.conftest import corpus_of, random_corpus

A, B, C, D, E, F, G, END = 1, 2, 3, 4, 5, 6, 7, 9


def blocks_of(corpus: Corpus, block_size: int, packing: bool = True) -> Blocks:
    return Blocks.build(corpus, block_size, packing, end_id=END)


def plain(batch) -> dict[str, list | int]:
    return {
        key: value if isinstance(value, int) else value.tolist() for key, value in batch.items()
    }


def test_the_drawing_of_the_docstring():
    corpus = corpus_of(
        ([A, B, C, END], [0, 0, 1, 1]), ([D, END], [0, 1]), ([E, F, G, END], [0, 1, 0, 1])
    )
    blocks = blocks_of(corpus, 6)
    assert len(blocks) == 2
    # Either of the two longest may have the room that is left.
    blocks = replace(blocks, packing=Packing(np.array([0, 2, 3]), np.array([0, 1, 2])))
    assert plain(blocks.batch(np.array([0, 1]), denominator=5)) == {
        "input_ids": [[A, B, C, END, D, END], [E, F, G, END, END, END]],
        "position_ids": [[0, 1, 2, 3, 0, 1], [0, 1, 2, 3, 0, 1]],
        "cu_seqlens": [0, 4, 6, 10, 12],
        "max_seqlen": 4,
        "supervised_index": [1, 2, 4, 6, 8],
        "labels": [C, END, END, F, END],
        "denominator": 5,
        "num_tokens": 10,
    }
    assert (blocks.num_examples, blocks.num_tokens, blocks.num_targets) == (3, 10, 5)
    assert blocks.targets_per_block.tolist() == [3, 2]
    assert blocks.utilisation == 10 / 12


def test_blocks_come_in_the_order_asked_for_whatever_they_were_packed_with():
    corpus = corpus_of(([A, END], [0, 1]), ([B, C, END], [0, 0, 1]))
    blocks = blocks_of(corpus, 4, packing=False)
    assert blocks.batch(np.array([1, 0]), 2)["input_ids"].tolist() == [
        [B, C, END, END],
        [A, END, END, END],
    ]


def test_tensor_types_are_what_the_model_takes():
    batch = blocks_of(random_corpus(0, 20), 32).batch(np.array([0]), 1)
    types = {key: str(value.dtype) for key, value in batch.items() if hasattr(value, "dtype")}
    assert types == {
        "input_ids": "torch.int64",
        "position_ids": "torch.int64",
        "cu_seqlens": "torch.int32",
        "supervised_index": "torch.int64",
        "labels": "torch.int64",
    }
    assert type(batch["denominator"]) is type(batch["num_tokens"]) is int


def brute_force(blocks: Blocks, rows: np.ndarray) -> dict[str, list]:
    """The batch once more, a token at a time, from the examples alone."""
    ids, positions, boundaries, index, labels, num_tokens = [], [], [0], [], [], 0
    for row, block in enumerate(rows):
        for kept in [] if block == FILLER else blocks.packing[block]:
            example = blocks.corpus.example(blocks.corpus_index[kept])
            tokens = example.input_ids.tolist()[: blocks.block_size]
            for position, token in enumerate(tokens):
                following = position + 1
                if following < len(tokens) and example.supervised[following]:
                    index.append(len(ids))
                    labels.append(tokens[following])
                ids.append(token)
                positions.append(position)
            num_tokens += len(tokens)
            boundaries.append(len(ids))
        padding = (row + 1) * blocks.block_size - len(ids)
        ids += [END] * padding
        positions += range(padding)
        boundaries += [len(ids)] * bool(padding)
    return {
        "input_ids": np.reshape(ids, (len(rows), -1)).tolist(),
        "position_ids": np.reshape(positions, (len(rows), -1)).tolist(),
        "boundaries": boundaries,
        "supervised_index": index,
        "labels": labels,
        "num_tokens": num_tokens,
    }


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_a_label_is_due_where_the_next_token_of_the_same_document_is_supervised(
    seed, packing, monkeypatch
):
    """Random examples, some longer than a block, some not supervised at all."""
    monkeypatch.setattr("src.data.targets.EXAMPLES_AT_A_TIME", 7)
    blocks = blocks_of(random_corpus(seed, 60), 16 + seed, packing)
    rows = np.random.default_rng(seed).permutation(len(blocks))
    batch, expected = plain(blocks.batch(rows, 1)), brute_force(blocks, rows)
    boundaries = expected.pop("boundaries")
    assert batch["cu_seqlens"] == boundaries
    assert batch["max_seqlen"] == max(np.diff(boundaries))
    assert {key: batch[key] for key in expected} == expected
    per_row = np.array(expected["supervised_index"]) // blocks.block_size
    assert (
        np.bincount(per_row, minlength=len(rows)).tolist()
        == blocks.targets_per_block[rows].tolist()
    )
    assert blocks.targets_per_block.sum() == blocks.num_targets == len(expected["labels"])
    assert blocks.num_tokens == expected["num_tokens"]


def test_a_cut_example_loses_its_tail_and_end_token_and_is_counted():
    corpus = corpus_of(([A, B, C, D, END], [0, 0, 1, 1, 1]), ([E, END], [0, 1]))
    blocks = blocks_of(corpus, 4)
    assert (blocks.num_cut, blocks.num_without_room, blocks.num_examples) == (1, 0, 2)
    batch = blocks.batch(np.array([0, 1]), 3)
    assert batch["input_ids"].tolist() == [[A, B, C, D], [E, END, END, END]]
    assert batch["labels"].tolist() == [C, D, END]


def test_an_example_that_just_fits_is_not_cut():
    blocks = blocks_of(corpus_of(([A, B, C, END], [0, 0, 1, 1])), 4)
    assert (blocks.num_cut, blocks.num_targets) == (0, 2)
    assert blocks.batch(np.array([0]), 2)["cu_seqlens"].tolist() == [0, 4]


def test_an_example_without_room_for_its_response_is_dropped_and_counted():
    corpus = corpus_of(
        ([A, B, C, D, E, END], [0, 0, 0, 0, 1, 1]),  # cut before its response
        ([A, END], [0, 1]),
        ([A, B], [0, 0]),  # nothing supervised
        ([A], [1]),  # nothing before it to predict it from
    )
    blocks = blocks_of(corpus, 4)
    assert blocks.corpus_index.tolist() == [1]
    assert (blocks.num_cut, blocks.num_without_room, len(blocks)) == (0, 3, 1)
    assert blocks.batch(np.array([0]), 1)["input_ids"].tolist() == [[A, END, END, END]]


def test_a_filler_block_is_padding_that_is_never_supervised():
    blocks = blocks_of(corpus_of(([A, B, END], [0, 0, 1])), 4)
    assert plain(blocks.batch(np.array([FILLER, 0]), 1)) == {
        "input_ids": [[END] * 4, [A, B, END, END]],
        "position_ids": [[0, 1, 2, 3], [0, 1, 2, 0]],
        "cu_seqlens": [0, 4, 7, 8],
        "max_seqlen": 4,
        "supervised_index": [5],
        "labels": [END],
        "denominator": 1,
        "num_tokens": 3,
    }
    empty = blocks.batch(np.array([FILLER]), 0)
    assert empty["labels"].shape == empty["supervised_index"].shape == (0,)
    assert str(empty["labels"].dtype) == "torch.int64"


def test_a_split_without_examples_has_no_blocks():
    blocks = blocks_of(corpus_of(), 8)
    assert (len(blocks), blocks.num_examples, blocks.num_targets, blocks.num_tokens) == (0, 0, 0, 0)
    assert blocks.utilisation == 0.0
    assert blocks.targets_per_block.shape == (0,)


def test_a_block_longer_than_the_model_has_positions_holds_no_longer_example():
    """Positions restart in padding too, which may be longer than the model's positions."""
    corpus = corpus_of(([A, B, C, D, E, END], [0, 0, 1, 1, 1, 1]), ([F, END], [0, 1]))
    blocks = Blocks.build(corpus, 16, packing=True, end_id=END, max_length=4)
    assert (len(blocks), blocks.num_cut) == (1, 1)
    batch = blocks.batch(np.array([0, FILLER]), 3)
    assert batch["input_ids"].shape == (2, 16)
    bounds = batch["cu_seqlens"].tolist()
    assert np.diff(bounds).max() == batch["max_seqlen"] == 4
    assert bounds[-5:] == [16, 20, 24, 28, 32]
    assert batch["position_ids"].max() == 3
    assert sorted(batch["labels"].tolist()) == sorted([C, D, END])


@pytest.mark.parametrize("seed", range(4))
def test_the_documents_of_a_unit_lie_in_one_block_in_their_order(seed):
    """A unit in which nothing is due, or which no block can hold, is dropped whole."""
    corpus = random_corpus(seed, 40, longest=12)
    rng = np.random.default_rng(seed)
    units = np.concatenate([[0], np.sort(rng.choice(np.arange(1, 40), 15, replace=False)), [40]])
    blocks = Blocks.build(corpus, 24, packing=True, end_id=END, max_length=10, units=units)
    lengths = np.minimum(corpus.lengths, 10)
    labels = blocks.targets.count(corpus, lengths)
    kept = [
        list(range(first, end))
        for first, end in pairwise(units)
        if labels[first:end].any() and lengths[first:end].sum() <= 24
    ]
    assert blocks.num_without_room == len(units) - 1 - len(kept) > 0
    found = []
    for block in range(len(blocks)):
        documents = blocks.corpus_index[blocks.documents(block)].tolist()
        while documents:
            unit = next(unit for unit in kept if unit[0] == documents[0])
            assert documents[: len(unit)] == unit
            found.append(unit)
            documents = documents[len(unit) :]
        batch = blocks.batch(np.array([block]), 1)
        assert batch["num_tokens"] == blocks.tokens_per_block[block] <= 24
        assert len(batch["labels"]) == blocks.targets_per_block[block]
    assert sorted(found) == kept


@pytest.mark.parametrize("isolate", [True, False])
@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize("prompt_weight", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_what_blocks_are_off_default_is_as_written_out_in_full(isolate, reset, prompt_weight, seed):
    """Whole blocks attend, positions run on, prompts have labels of their own, at a weight."""
    corpus = random_corpus(seed, 40, longest=14)
    if prompt_weight:  # 0 only read, 1 a response's, 2 a prompt's
        kinds = np.random.default_rng(seed).integers(0, 3, len(corpus.input_ids), dtype=np.uint8)
        corpus = replace(corpus, supervised=kinds)
    blocks = Blocks.build(
        corpus,
        16,
        packing=True,
        end_id=END,
        targets=Labels(prompt_weight),
    ).read_as(isolate, reset)
    plain_corpus = replace(corpus, supervised=corpus.supervised == 1)
    default = Blocks.build(plain_corpus, 16, packing=True, end_id=END)
    assert np.array_equal(blocks.packing.examples, default.packing.examples)
    rows = np.random.default_rng(seed).permutation(len(blocks))
    batch, expected = plain(blocks.batch(rows, 1)), plain(default.batch(rows, 1))
    if not isolate:
        expected["cu_seqlens"] = list(range(0, 16 * len(rows) + 1, 16))
        expected["max_seqlen"] = 16
    if not reset:
        expected["position_ids"] = [list(range(16))] * len(rows)
    if prompt_weight:
        index, labels, weights = [], [], []
        for row, block in enumerate(rows):
            place, weight = row * 16, 0.0
            for kept in blocks.packing[block]:
                example = corpus.example(blocks.corpus_index[kept])
                tokens = example.input_ids.tolist()
                for number in range(len(tokens)):
                    if number and example.supervised[number] == 2:
                        index.append(place - 1)
                        labels.append(tokens[number])
                        weight += prompt_weight
                    weight += bool(number) and example.supervised[number] == 1
                    place += 1
            weights.append(weight)
        expected |= {"prompt_index": index, "prompt_labels": labels}
        assert blocks.num_prompt_targets == len(labels)
        assert blocks.weight_per_block[rows].tolist() == pytest.approx(weights)
    else:
        assert blocks.weight_per_block is blocks.targets_per_block
    assert batch == expected
    assert blocks.num_targets == default.num_targets


def test_positions_that_run_on_must_be_there():
    corpus = corpus_of(([A, B, END], [0, 1, 1]))
    blocks = Blocks.build(corpus, 8, True, END, max_length=4)
    with pytest.raises(UserError, match=r"data.reset_positions=false: a block of 8 .* set data.b"):
        blocks.read_as(isolate_documents=True, reset_positions=False)
    blocks.read_as(isolate_documents=False, reset_positions=True)
