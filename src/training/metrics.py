"""Sums and counts on the device, over any number of batches and ranks."""

from collections.abc import Mapping
from typing import Protocol

import torch
import torchmetrics
from torch import Tensor


class BatchSums(Protocol):
    """A NamedTuple of 0-d tensors: sums and counts over one micro-batch."""

    @property
    def loss(self) -> Tensor:
        """The summed loss, with a gradient."""
        ...

    def _asdict(self) -> dict[str, Tensor]: ...


class NamedSums(dict[str, Tensor]):
    """``BatchSums`` of an objective with many of them."""

    @property
    def loss(self) -> Tensor:
        """The summed loss, with a gradient."""
        return self["loss"]

    def _asdict(self) -> dict[str, Tensor]:
        return self


class Sums(torchmetrics.Metric):
    """Adds up named 0-d tensors; whoever asks divides, once: the mean of means is not the mean.

    Args:
        types: what is added up, by name.
    """

    full_state_update = False

    def __init__(self, types: Mapping[str, torch.dtype]) -> None:
        super().__init__()
        for name, dtype in types.items():
            self.add_state(name, torch.zeros((), dtype=dtype), dist_reduce_fx="sum")

    def update(self, sums: BatchSums) -> None:
        """Add one micro-batch."""
        for name, value in sums._asdict().items():
            setattr(self, name, getattr(self, name) + value.detach())

    def values(self) -> dict[str, Tensor]:
        """Return this rank's sums as they are now, where they are: later ones are other tensors."""
        return {name: getattr(self, name) for name in self._defaults}

    def sums(self) -> dict[str, Tensor]:
        """Return this rank's sums, on the CPU."""
        return {name: getattr(self, name).cpu() for name in self._defaults}

    def restore(self, sums: dict[str, Tensor]) -> None:
        """Go on from this rank's ``sums``."""
        self._update_count = 1  # or torchmetrics warns that there is nothing to compute
        for name, value in sums.items():
            setattr(self, name, value.to(self.device))

    def compute(self) -> dict[str, float]:
        """Return the sums over all ranks as numbers."""
        return {name: getattr(self, name).item() for name in self._defaults}
