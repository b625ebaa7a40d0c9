from itertools import permutations

import numpy as np
import pytest

from src.data.blocks import FILLER, Blocks
from src.data.comparison_corpus import ComparisonCorpus, Group
from src.data.comparison_targets import Comparisons
from src.data.order import Batching, MicroBatches

A, B, C, D, END = 1, 2, 3, 4, 9


def blocks_of(groups: list[Group], block_size: int, max_length: int = 16) -> Blocks:
    corpus = ComparisonCorpus.of(groups)
    return Blocks.build(
        corpus,
        block_size,
        packing=True,
        end_id=END,
        max_length=max_length,
        targets=Comparisons(),
        units=corpus.units,
    )


def random_groups(seed: int, num_groups: int) -> list[Group]:
    """Groups of two to five replies; some end, some have ties, none is all tied."""
    rng = np.random.default_rng(seed)
    groups = []
    for _ in range(num_groups):
        size, prompt = rng.integers(2, 6), rng.integers(10, 99, rng.integers(1, 5)).tolist()
        replies = [
            [*prompt, *rng.integers(10, 99, rng.integers(1, 6)), *[END] * rng.integers(0, 2)]
            for _ in range(size)
        ]
        ranks = [1, 2, *rng.integers(1, 4, size - 2)]
        groups.append(Group(replies, len(prompt), [int(r) for r in rng.permutation(ranks)]))
    return groups


def test_the_drawing_of_the_docstring():
    blocks = blocks_of([Group([[A, B, C, END], [A, B, D, 5, END]], 2, [2, 1])], 10)
    batch = blocks.batch(np.array([0]), denominator=1)
    plain = {k: v.tolist() if hasattr(v, "tolist") else v for k, v in batch.items()}
    assert plain == {
        "input_ids": [[A, B, C, END, A, B, D, 5, END, END]],
        "position_ids": [[0, 1, 2, 3, 0, 1, 2, 3, 4, 0]],
        "cu_seqlens": [0, 4, 9, 10],
        "max_seqlen": 5,
        "reply_index": [1, 2, 5, 6, 7],
        "reply_labels": [C, END, D, 5, END],
        "owner": [0, 0, 1, 1, 1],
        "last_index": [3, 8],
        "ranks": [2, 1],
        "group": [0, 0],
        "reply_number": [0, 1],
        "pairs": [[1, 0]],
        "pair_weight": [1.0],
        "denominator": 1,
        "num_tokens": 9,
    }


@pytest.mark.parametrize("seed", range(4))
def test_every_pair_of_a_ranking_is_there_once_and_each_prompt_counts_once(seed):
    groups = random_groups(seed, 20)
    blocks = blocks_of(groups, 48)
    assert blocks.num_targets == len(groups)
    batch = blocks.batch(np.arange(len(blocks)), len(groups))
    numbers = batch["reply_number"].numpy()
    firsts = np.concatenate([[0], np.cumsum([len(group.replies) for group in groups])])
    expected = {
        (firsts[g] + better, firsts[g] + worse)
        for g, group in enumerate(groups)
        for better, worse in permutations(range(len(group.replies)), 2)
        if group.ranks[better] < group.ranks[worse]
    }
    found = list(map(tuple, numbers[batch["pairs"].numpy()].tolist()))
    assert len(found) == len(expected)
    assert set(found) == expected
    weights = np.zeros(len(groups))
    np.add.at(weights, batch["group"].numpy()[batch["pairs"][:, 0]], batch["pair_weight"].numpy())
    assert np.allclose(weights, 1)


@pytest.mark.parametrize("seed", range(4))
def test_the_tokens_of_each_reply_are_its_own(seed):
    groups = random_groups(seed, 20)
    documents = [(g.num_context, r) for g in groups for r in g.replies]
    blocks = blocks_of(groups, 48)
    batch = blocks.batch(np.arange(len(blocks)), len(groups))
    flat, positions = batch["input_ids"].flatten(), batch["position_ids"].flatten()
    for reply, number in enumerate(batch["reply_number"].tolist()):
        context, ids = documents[number]
        own = batch["owner"] == reply
        assert batch["reply_labels"][own].tolist() == ids[context:]
        assert flat[batch["reply_index"][own]].tolist() == ids[context - 1 : -1]
        last = batch["last_index"][reply]
        assert flat[last] == ids[-1]
        assert positions[last] == len(ids) - 1
        assert flat[last - len(ids) + 1 : last + 1].tolist() == ids


def test_a_group_with_a_reply_that_is_too_long_is_dropped_whole_and_never_cut():
    long = Group([[A, *range(20, 40)], [A, B]], 1, [1, 2])
    wide = Group([[A, *range(20, 30)]] * 3, 1, [1, 2, 2])
    short = Group([[A, C, END], [A, B]], 1, [1, 2])
    blocks = blocks_of([long, short, wide], 24, max_length=12)
    assert blocks.num_without_room == 2
    assert blocks.num_cut == 0
    assert blocks.corpus_index.tolist() == [2, 3]


def test_the_denominator_is_the_number_of_prompts_of_the_global_batch_on_every_rank():
    blocks = blocks_of(random_groups(0, 40), 30)
    for cut in (Batching(4, 1, 4), Batching(4, 1, 1), Batching(4, 2, 1)):
        steps = cut.steps(len(blocks))
        micros = [MicroBatches(blocks, cut, steps, 1, rank) for rank in range(cut.num_devices)]
        for step in range(steps):
            items = range(step * cut.num_micro_batches, (step + 1) * cut.num_micro_batches)
            parts = [batches[item] for batches in micros for item in items]
            groups = sum(len(part["group"].unique()) for part in parts)
            assert {part["denominator"] for part in parts} == {groups}


def test_a_batch_of_padding_has_no_reply():
    batch = blocks_of(random_groups(0, 3), 30).batch(np.array([FILLER]), 1)
    assert batch["pairs"].shape == (0, 2)
    for name in ("reply_index", "reply_labels", "owner", "last_index", "group", "pair_weight"):
        assert batch[name].shape == (0,), name
