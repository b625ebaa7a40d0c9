"""How far a reward model's chances can be believed: of what it calls 80%, are 80% right?

Pairs are put into bins by the chance that the model gives to its own choice, from 50 to 100%. The
expected calibration error is the mean distance of each bin's chance from the share that was right
(Naeini et al., AAAI 2015), each pair counted at its weight. Bins of both choices of a pair, ten
from 0 to 100%, would give the same number.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from src.files import atomic
from src.training.module import TrainingModule
from src.training.objective import Best
from src.training.shown import Histogram, boards

NUM_BINS = 5  # from 50 to 100%, ten for both ways round
EDGES = np.linspace(0.5, 1.0, NUM_BINS + 1)
PICTURE = "calibration.png"  # in the run folder
KINDS = ("weight", "chance", "right")
SUMS = tuple(f"{kind}_{number}" for kind in KINDS for number in range(NUM_BINS))


def bin_sums(margins: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """Return the sums of each bin, by the names of ``SUMS``.

    Args:
        margins: (P,) of the better reply over the worse one.
        weights: (P,) what each pair counts.
    """
    chances = margins.abs().sigmoid()
    bins = ((chances - 0.5) * 2 * NUM_BINS).long().clamp(max=NUM_BINS - 1)
    rows = torch.stack([weights, weights * chances, weights * is_right(margins)])
    sums = torch.zeros(len(KINDS), NUM_BINS, device=margins.device).index_add_(1, bins, rows)
    return dict(zip(SUMS, sums.flatten(), strict=True))


def is_right(margins: Tensor) -> Tensor:
    """Return 1 where the better reply has the higher reward, 1/2 where both have the same (P,)."""
    return (margins > 0).float() + 0.5 * (margins == 0).float()


def bins_of(sums: Mapping[str, float]) -> np.ndarray:
    """Return weight, chance and right (3, bins) of the bins, each a sum."""
    return np.array([sums[name] for name in SUMS]).reshape(len(KINDS), NUM_BINS)


def calibration_error(sums: Mapping[str, float]) -> float:
    """Return the expected calibration error, from 0 to 1."""
    weight, chance, right = bins_of(sums)
    return float(np.abs(chance - right).sum() / max(weight.sum(), 1e-12))


class Calibration(L.Callback):
    """Shows at each validation what was right of each bin; draws the best weights' in the end.

    Args:
        best: the figure that chooses the weights.
    """

    def __init__(self, best: Best):
        self.best = best
        self.value: float | None = None  # of that figure
        self.bins: list[list[float]] = []  # of the best validation

    def state_dict(self) -> dict[str, Any]:
        """Return the bins of the best validation so far."""
        return {"value": self.value, "bins": self.bins}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from those of the interrupted run."""
        self.value, self.bins = state_dict["value"], state_dict["bins"]

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Show the share that was right in each bin; keep the bins if the weights are the best."""
        assert isinstance(module, TrainingModule)
        bins = bins_of(module.validated)
        weight, _, right = bins
        for board in boards(trainer):
            shown = Histogram(100 * EDGES, right / np.maximum(weight, 1e-12))
            board.log_histogram("val/right_by_chance", shown, trainer.global_step)
        value = module.latest[self.best.figure]
        if self.best.improves(value, self.value):
            self.value, self.bins = value, bins.tolist()

    def draw(self, path: Path) -> bool:
        """Draw the bins of the best validation; return whether there was one."""
        if not self.bins:
            return False
        from matplotlib.figure import Figure

        weight, chance, right = np.array(self.bins)
        there = weight > 0
        x, y = (values[there] / weight[there] for values in (chance, right))
        figure = Figure(figsize=(5, 5), layout="constrained")
        axes = figure.subplots()
        axes.plot([0.5, 1], [0.5, 1], color="0.6", linewidth=1, label="as it says")
        axes.bar(
            (EDGES[:-1] + EDGES[1:]) / 2,
            weight / weight.sum(),
            width=np.diff(EDGES),
            color="tab:blue",
            alpha=0.15,
            label="share of the pairs",
        )
        axes.plot(x, y, "o-", color="tab:blue", label="right")
        error = np.abs(chance - right).sum() / weight.sum()
        axes.set(
            xlabel="chance that the model gives to its choice",
            ylabel="share that was right",
            xlim=(0.5, 1),
            ylim=(0, 1),
            title=f"calibration on validation pairs: error {error:.3f}",
        )
        axes.legend(loc="lower right")
        with atomic.file(path) as part:
            figure.savefig(part, format="png", dpi=120)
        return True
