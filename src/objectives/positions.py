"""The loss of a response's first token, its second, and so on: where a model is unsure.

Shape letters: B blocks, T positions, S supervised positions, D width.
"""

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from src.data.batch import Batch
from src.model.gpt2 import GPT2
from src.model.loss import IGNORE_INDEX
from src.training.shown import BINS, Histogram, boards

MOST_TOKENS = 4096  # of a validation: its share of the scores is computed twice
CHUNK = 512  # positions whose scores are in memory at once


class LossByPosition(L.Callback):
    """Adds up the loss by position over the first tokens of a validation; boards show the means.

    Everything stays on the device until the end of the validation. Each rank looks at its own
    blocks, and rank 0 shows what it has seen.

    Attributes:
        width: positions of a bar.
    """

    def __init__(self) -> None:
        self.width = 1
        self.num_tokens = 0
        self.sums: Tensor | None = None  # (2, bars): of the loss, and counts

    def add(self, model: GPT2, hidden: Tensor, batch: Batch) -> None:
        """Add the supervised tokens of a batch; ``hidden`` (B, T, D) is the model's output."""
        room = MOST_TOKENS - self.num_tokens
        index, labels = batch["supervised_index"][:room], batch["labels"][:room]
        if not len(index):
            return
        self.num_tokens += len(index)
        if self.sums is None:
            self.sums = torch.zeros(2, BINS + 1, device=hidden.device)
        bars = (positions(index) // self.width).clamp(max=BINS)  # the last bar is not shown
        rows = hidden.flatten(0, 1).index_select(0, index)
        for part, due, bar in zip(*(x.split(CHUNK) for x in (rows, labels, bars)), strict=True):
            nats = F.cross_entropy(model.logits(part).float(), due, reduction="none")
            self.sums[0].index_add_(0, bar, nats)
            self.sums[1].index_add_(0, bar, (due != IGNORE_INDEX).float())

    def on_validation_start(self, *_: object) -> None:
        """Begin anew."""
        self.num_tokens, self.sums = 0, None

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Show the mean loss of each bar."""
        if self.sums is None:
            return
        loss, count = self.sums[:, :BINS].cpu().double().numpy()
        self.sums = None
        edges = np.arange(BINS + 1.0) * self.width + 1  # positions count from 1
        shown = Histogram(edges, loss / np.maximum(count, 1))
        for board in boards(trainer):
            board.log_histogram("val/loss_by_position", shown, trainer.global_step)


def positions(index: Tensor) -> Tensor:
    """Return the place of each supervised token in its response (S,), from 0.

    Args:
        index: (S,) ascending; the tokens of a response follow each other, and between two
            responses there are others.
    """
    numbers = torch.arange(len(index), device=index.device)
    begins = torch.ones_like(index, dtype=torch.bool)
    begins[1:] = index[1:] != index[:-1] + 1
    return numbers - torch.where(begins, numbers, 0).cummax(0).values


def bar_width(lengths: np.ndarray) -> int:
    """Return how many positions a bar covers, so that nearly all responses end within the bars."""
    return max(1, -(-int(np.quantile(lengths, 0.95)) // BINS)) if len(lengths) else 1
