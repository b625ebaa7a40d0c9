"""Which blocks make which optimizer step: a pure function of seed and step.

A resumed run, another number of devices and another micro-batch size see exactly the same global
batches, and the number of targets of each is known before it is loaded.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from src import signals
from src.data.batch import Batch
from src.data.blocks import FILLER, Blocks
from src.errors import UserError
from src.free_cores import spare_cores


@dataclass(frozen=True)
class Batching:
    """How a global batch of ``batch_size`` blocks is cut: over devices, then micro-batches."""

    batch_size: int
    num_devices: int
    micro_batch_size: int  # blocks on a device at a time

    @classmethod
    def of(cls, batch_size: int, num_devices: int, at_most: int) -> "Batching":
        """Cut into the largest equal micro-batches of ``at_most`` blocks.

        Raises:
            UserError: the devices cannot share the batch evenly.
        """
        share, rest = divmod(batch_size, num_devices)
        if rest:
            raise UserError(
                f"batch_size={batch_size} cannot be shared by {num_devices} devices: use a multiple"
            )
        sizes = range(1, min(at_most, share) + 1)
        return cls(batch_size, num_devices, max(size for size in sizes if share % size == 0))

    def cut_for(self, num_blocks: int) -> "Batching":
        """Return this, with micro-batches of no more blocks than one step has on a device."""
        share = -(-min(self.batch_size, max(num_blocks, 1)) // self.num_devices)
        return Batching.of(self.batch_size, self.num_devices, min(self.micro_batch_size, share))

    @property
    def num_micro_batches(self) -> int:
        """Micro-batches of one step on one device."""
        return self.batch_size // self.num_devices // self.micro_batch_size

    def steps(self, num_blocks: int) -> int:
        """Return the steps that see each of ``num_blocks`` once; the last may be short."""
        return -(-num_blocks // self.batch_size)


@lru_cache(maxsize=2)
def shuffled(num_blocks: int, seed: int, epoch: int) -> np.ndarray:
    """Return the order of the blocks (num_blocks,) in one epoch."""
    return np.random.default_rng([seed, epoch]).permutation(num_blocks)


def in_passes(num_items: int, seed: int, start: int, count: int) -> np.ndarray:
    """Return ``count`` items (count,) from place ``start`` on of endless passes over all of them.

    In each pass every item comes once, in another order.
    """
    passes, places = np.divmod(np.arange(start, start + count), num_items)
    return np.array(
        [
            shuffled(num_items, seed, number)[place]
            for number, place in zip(passes.tolist(), places.tolist(), strict=True)
        ]
    )


@dataclass(frozen=True)
class MicroBatches(Dataset):
    """The micro-batches of one rank, from a run's first step to its last, by number.

    Item i is micro-batch ``i % accumulate`` of step ``i // accumulate``. The last global batch of
    an epoch may be short: it has its own number of targets, and empty blocks fill it up, so that
    every step has the same shape. Training leaves out micro-batches that are empty on all ranks.
    """

    blocks: Blocks
    batching: Batching
    num_steps: int
    seed: int | None  # None: in order, as for validation
    rank: int = 0

    @property
    def accumulate(self) -> int:
        """Micro-batches of one step on one rank."""
        return self.batching.num_micro_batches

    def global_batch(self, step: int) -> np.ndarray:
        """Return the blocks of a step, at most ``batch_size``, over all ranks."""
        size = self.batching.batch_size
        epoch, position = divmod(step, self.batching.steps(len(self.blocks)))
        window = slice(position * size, (position + 1) * size)
        if self.seed is None:
            return np.arange(len(self.blocks))[window]
        return shuffled(len(self.blocks), self.seed, epoch)[window]

    def __len__(self) -> int:
        return self.num_steps * self.accumulate

    def __getitem__(self, item: int) -> Batch:
        step, micro = divmod(item, self.accumulate)
        blocks = self.global_batch(step)
        denominator = self.blocks.weight_per_block[blocks].sum().item()
        padded = np.full(self.batching.batch_size, FILLER)
        padded[: len(blocks)] = blocks
        all_ranks = np.split(padded, self.accumulate)[micro]
        # Ranks take turns, so that a short batch is spread over them evenly.
        batch = self.blocks.batch(all_ranks[self.rank :: self.batching.num_devices], denominator)
        num_tokens = self.blocks.tokens_per_block[all_ranks[all_ranks != FILLER]].sum()
        return {**batch, "num_tokens": int(num_tokens)}


def usable_workers(asked: int) -> int:
    """Return how many workers can load batches beside each process of this machine."""
    num_processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # torchrun's name; see ``Place``
    return min(asked, spare_cores(num_processes))


def data_loader(
    batches: MicroBatches, start: int, num_workers: int, pin_memory: bool
) -> DataLoader:
    """Return a loader of the micro-batches from number ``start`` on."""
    return DataLoader(
        batches,
        batch_size=None,
        sampler=range(start, len(batches)),
        num_workers=usable_workers(num_workers),
        pin_memory=pin_memory,
        worker_init_fn=signals.follow_parent,
        generator=torch.Generator(),  # else each loader would draw from the generator of dropout
    )


class ResumableLoader:
    """Loads micro-batches in order and counts them.

    Lightning saves and restores the state of a loader that has a length and these two methods; a
    plain DataLoader would replay an epoch from its start.
    """

    def __init__(self, batches: MicroBatches, num_workers: int, pin_memory: bool):
        self.batches = batches
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self.position = 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        for batch in data_loader(self.batches, self.position, self.num_workers, self.pin_memory):
            self.position += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return the number of micro-batches so far."""
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after that number of micro-batches."""
        self.position = state["position"]
