from itertools import islice

import numpy as np
import pytest
import torch

from src.data.blocks import Blocks
from src.data.order import Batching, MicroBatches, ResumableLoader, data_loader
from src.errors import UserError
from tests.data.conftest import corpus_of

END = 999


def micro_batches(
    num_blocks=10, batch_size=4, micro_batch_size=2, world_size=1, num_steps=6, seed=1, rank=0
) -> MicroBatches:
    """Block i holds one example that starts with token i and has 1 to 3 labels."""
    examples = [([i, *[500] * (i % 3), END], [0, *[1] * (i % 3), 1]) for i in range(num_blocks)]
    blocks = Blocks.build(corpus_of(*examples), 8, packing=False, end_id=END)
    batching = Batching(batch_size, world_size, micro_batch_size)
    return MicroBatches(blocks, batching, num_steps, seed, rank)


def blocks_in(batch) -> list[int]:
    """The number of each block of a batch, fillers left out."""
    return [i for i in batch["input_ids"][:, 0].tolist() if i != END]


def assert_same(ours, theirs) -> None:
    ours, theirs = list(ours), list(theirs)
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        for key, value in one.items():
            equal = torch.equal if isinstance(value, torch.Tensor) else int.__eq__
            assert equal(value, other[key]), key


@pytest.mark.parametrize("num_blocks", [1, 4, 7, 8, 10])
def test_every_block_comes_exactly_once_an_epoch(num_blocks):
    batches = micro_batches(num_blocks, num_steps=100)
    steps = batches.batching.steps(len(batches.blocks))
    assert steps == -(-num_blocks // 4)
    for epoch in range(3):
        window = range(epoch * steps * 2, (epoch + 1) * steps * 2)
        seen = [block for item in window for block in blocks_in(batches[item])]
        assert sorted(seen) == list(range(num_blocks))


def test_the_order_is_another_in_each_epoch_and_with_each_seed():
    def order(seed, epoch):
        batches = micro_batches(40, seed=seed)
        return tuple(np.concatenate([batches.global_batch(epoch * 10 + i) for i in range(10)]))

    orders = [order(seed, epoch) for seed in range(4) for epoch in range(4)]
    assert len(set(orders)) == 16
    assert orders == [order(seed, epoch) for seed in range(4) for epoch in range(4)]
    assert tuple(range(40)) not in orders


def test_without_a_seed_the_blocks_come_in_order():
    batches = micro_batches(10, seed=None, num_steps=3)
    assert [blocks_in(batches[i]) for i in range(6)] == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], []]


def test_a_step_is_its_micro_batches_and_knows_its_labels_beforehand():
    batches = micro_batches(10)
    assert batches.accumulate == 2
    assert len(batches) == 12
    for step in range(6):
        micro = [batches[2 * step], batches[2 * step + 1]]
        assert blocks_in(micro[0]) + blocks_in(micro[1]) == batches.global_batch(step).tolist()
        labels = sum(len(batch["labels"]) for batch in micro)
        assert [batch["denominator"] for batch in micro] == [labels, labels]


def test_a_short_last_global_batch_is_a_step_with_its_own_count():
    """Ten blocks in fours: the third step has two, and keeps its shape."""
    batches = micro_batches(10)
    last = batches.global_batch(2)
    assert len(last) == 2
    for item in (4, 5):
        assert batches[item]["input_ids"].shape == batches[0]["input_ids"].shape == (2, 8)
        assert batches[item]["denominator"] == sum(1 + i % 3 for i in last)
    assert blocks_in(batches[4]) == last.tolist()
    assert batches[5]["labels"].shape == (0,)
    assert batches[5]["num_tokens"] == 0
    assert (batches[5]["input_ids"] == END).all()


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("micro", [1, 2])
def test_however_it_is_cut_a_step_has_the_same_blocks(world_size, micro):
    """8 blocks a step over ranks and micro-batches; 11 blocks, so that the second is short."""
    whole = micro_batches(11, batch_size=8, micro_batch_size=8)
    ranks = [
        micro_batches(11, batch_size=8, micro_batch_size=micro, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    accumulate = 8 // world_size // micro
    assert all(rank.accumulate == accumulate for rank in ranks)
    for step in range(4):
        items = range(step * accumulate, (step + 1) * accumulate)
        parts = [[rank[item] for item in items] for rank in ranks]
        seen = [block for part in parts for batch in part for block in blocks_in(batch)]
        assert sorted(seen) == sorted(blocks_in(whole[step]))
        counts = {batch["denominator"] for part in parts for batch in part}
        assert counts == {whole[step]["denominator"]}
        num_tokens = sum(batch["num_tokens"] for batch in parts[0])  # any rank counts for all
        assert num_tokens == whole[step]["num_tokens"]
        held = [sum(len(blocks_in(batch)) for batch in part) for part in parts]
        assert max(held) - min(held) <= 1, "a short batch is spread over the ranks"


@pytest.mark.parametrize(
    ("batch_size", "num_devices", "at_most", "expected"),
    [
        (32, 1, 8, 8),
        (32, 1, 100, 32),
        (32, 2, 100, 16),
        (32, 4, 3, 2),
        (12, 1, 5, 4),
        (12, 2, 5, 3),
        (7, 1, 6, 1),
        (1, 1, 1, 1),
    ],
)
def test_a_micro_batch_is_the_largest_divisor_that_is_allowed(
    batch_size, num_devices, at_most, expected
):
    assert Batching.of(batch_size, num_devices, at_most).micro_batch_size == expected


def test_a_micro_batch_has_no_more_blocks_than_there_are():
    batching = Batching.of(32, 2, 16)
    assert [batching.cut_for(n).micro_batch_size for n in (0, 1, 5, 9, 31, 32, 99)] == [
        *(1, 1, 2, 4, 16, 16, 16)
    ]
    assert Batching.of(32, 2, 4).cut_for(99).micro_batch_size == 4


def test_only_a_batch_that_the_devices_do_not_divide_is_refused():
    with pytest.raises(UserError, match="batch_size=32 cannot be shared by 3 devices"):
        Batching.of(32, 3, 8)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_resumed_loader_goes_on_with_identical_batches(num_workers):
    """After five micro-batches: in the middle of a step, an epoch's end still to come."""
    batches = micro_batches(10)
    whole = list(ResumableLoader(batches, 0, pin_memory=False))
    assert_same(whole, [batches[i] for i in range(12)])

    first = ResumableLoader(batches, num_workers, pin_memory=False)
    assert len(first) == 12
    assert first.state_dict() == {"position": 0}
    begun = list(islice(first, 5))
    state = first.state_dict()
    assert state == {"position": 5}, "what was handed out, not what workers have loaded ahead"

    second = ResumableLoader(micro_batches(10), num_workers, pin_memory=False)
    second.load_state_dict(state)
    assert_same([*begun, *second], whole)
    assert second.state_dict() == {"position": 12}


def test_a_loader_draws_nothing_from_the_generator_that_dropout_uses():
    before = torch.get_rng_state()
    list(data_loader(micro_batches(), 0, num_workers=0, pin_memory=False))
    list(ResumableLoader(micro_batches(), 0, pin_memory=False))
    assert torch.equal(torch.get_rng_state(), before)
