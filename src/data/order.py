"""Which blocks make which optimizer step: a pure function of seed and step.

Nothing is drawn while training, so a resumed run, another number of devices or another
micro-batch size see exactly the same global batches, and each one's number of targets is known
before it is loaded.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from src.data.batch import Batch
from src.data.blocks import FILLER, Blocks
from src.errors import UserError


def micro_batch_size(batch_size: int, num_devices: int, at_most: int) -> int:
    """Return the largest divisor of ``batch_size / num_devices`` that is not above ``at_most``.

    Raises:
        UserError: the devices cannot share the batch evenly.
    """
    if batch_size % num_devices:
        raise UserError(
            f"batch_size={batch_size} cannot be shared by {num_devices} devices: use a multiple"
        )
    per_device = batch_size // num_devices
    return max(size for size in range(1, min(at_most, per_device) + 1) if per_device % size == 0)


@dataclass(frozen=True)
class Batching:
    """How a global batch of ``batch_size`` blocks is cut: over devices, then micro-batches."""

    batch_size: int
    num_devices: int
    micro_batch_size: int  # blocks on a device at a time: a divisor of its share

    @classmethod
    def of(cls, batch_size: int, num_devices: int, at_most: int) -> "Batching":
        """Cut into the largest equal micro-batches of ``at_most`` blocks.

        Raises:
            UserError: the devices cannot share the batch evenly.
        """
        return cls(batch_size, num_devices, micro_batch_size(batch_size, num_devices, at_most))

    @property
    def num_micro_batches(self) -> int:
        """Micro-batches of one step on one device."""
        return self.batch_size // self.num_devices // self.micro_batch_size


@lru_cache(maxsize=2)
def shuffled(num_blocks: int, seed: int, epoch: int) -> np.ndarray:
    """Return the order of the blocks (num_blocks,) in one epoch."""
    return np.random.default_rng([seed, epoch]).permutation(num_blocks)


@dataclass(frozen=True)
class MicroBatches(Dataset):
    """The micro-batches of one rank, from a run's first step to its last, by number.

    Item i is micro-batch ``i % accumulate`` of step ``i // accumulate``. The last global batch of
    an epoch may be short; it is a step with its own count of targets, filled up with empty blocks
    so that every step has the same shape.
    """

    blocks: Blocks
    batch_size: int
    micro_batch_size: int
    num_steps: int
    seed: int | None  # None: in order, as for validation
    rank: int = 0
    world_size: int = 1

    @property
    def accumulate(self) -> int:
        """Micro-batches of one step on one rank."""
        return self.batch_size // self.world_size // self.micro_batch_size

    @property
    def steps_per_epoch(self) -> int:
        """Steps that see every block once."""
        return -(-len(self.blocks) // self.batch_size)

    def global_batch(self, step: int) -> np.ndarray:
        """Return the blocks of a step, at most ``batch_size``, over all ranks."""
        epoch, position = divmod(step, self.steps_per_epoch)
        window = slice(position * self.batch_size, (position + 1) * self.batch_size)
        if self.seed is None:
            return np.arange(len(self.blocks))[window]
        return shuffled(len(self.blocks), self.seed, epoch)[window]

    def __len__(self) -> int:
        return self.num_steps * self.accumulate

    def __getitem__(self, item: int) -> Batch:
        step, micro = divmod(item, self.accumulate)
        blocks = self.global_batch(step)
        denominator = self.blocks.targets_per_block[blocks].sum()
        filled = np.full(self.batch_size, FILLER)
        filled[: len(blocks)] = blocks
        together = self.micro_batch_size * self.world_size
        all_ranks = filled[micro * together : (micro + 1) * together]
        # Ranks take turns, so that a short batch is spread over them evenly.
        batch = self.blocks.batch(all_ranks[self.rank :: self.world_size], denominator)
        num_tokens = self.blocks.tokens_per_block[all_ranks[all_ranks != FILLER]].sum()
        return {**batch, "num_tokens": int(num_tokens)}


def data_loader(
    batches: MicroBatches, start: int, num_workers: int, pin_memory: bool
) -> DataLoader:
    """Return a loader of the micro-batches from number ``start`` on."""
    return DataLoader(
        batches,
        batch_size=None,
        sampler=range(start, len(batches)),
        num_workers=num_workers,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # or each loader would draw from the one dropout uses
    )


class ResumableLoader:
    """Loads micro-batches in order and knows how many it has handed out.

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
        """Return how many micro-batches were handed out."""
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after as many micro-batches."""
        self.position = state["position"]
