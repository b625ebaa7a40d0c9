"""Loss and accuracy as sums over counts, on the device, over any number of batches and ranks."""

import math

import torch
import torchmetrics
from torch import Tensor

from src.model.loss import LossSums


class SupervisedMetrics(torchmetrics.Metric):
    """Sums ``LossSums`` and divides once, when asked."""

    full_state_update = False
    loss: Tensor
    num_correct: Tensor
    num_supervised: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, dtype in (
            ("loss", torch.float32),
            ("num_correct", torch.int64),
            ("num_supervised", torch.int64),
        ):
            zero = torch.zeros((), dtype=dtype)
            self.add_state(name, zero, dist_reduce_fx="sum")

    def update(self, sums: LossSums) -> None:
        """Add one micro-batch."""
        self.loss = self.loss + sums.loss.detach()
        self.num_correct = self.num_correct + sums.num_correct
        self.num_supervised = self.num_supervised + sums.num_supervised

    def sums(self) -> dict[str, Tensor]:
        """Return this rank's sums, on the CPU."""
        return {name: getattr(self, name).cpu() for name in self._defaults}

    def restore(self, sums: dict[str, Tensor]) -> None:
        """Go on from this rank's ``sums``."""
        self._update_count = 1  # or torchmetrics warns that there is nothing to compute
        for name, value in sums.items():
            setattr(self, name, value.to(self.device))

    def compute(self) -> dict[str, float]:
        """Return ``loss`` (nats a token), ``accuracy`` and ``perplexity`` over all ranks."""
        count = max(int(self.num_supervised), 1)
        loss = float(self.loss) / count
        return {
            "loss": loss,
            "accuracy": int(self.num_correct) / count,
            "perplexity": math.exp(min(loss, 700.0)),
        }
