"""The figures of a run's last training steps, averaged as others print them.

Many programs print the mean over steps of each step's mean, and not a sum over a count. Beside a
figure of theirs stands one that is made in the same way.
"""

import math
from collections import deque
from typing import Any

import lightning as L
import torch
from torch import Tensor

from src.training.checkpoints import at_step_boundary
from src.training.module import TrainingModule


class LastSteps(L.Callback):
    """Keeps the sums of the last steps, where they are: nothing waits for the device.

    It stands before ``TrainingLog``, which resets the sums that it looks at. A step that was
    skipped counts for nothing.

    Args:
        num_steps: how many steps; 0: none.
    """

    def __init__(self, num_steps: int):
        self.sums: deque[dict[str, Tensor]] = deque(maxlen=num_steps)

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        """Take the sums of the step that has just ended."""
        assert isinstance(module, TrainingModule)
        if not self.sums.maxlen or not at_step_boundary(trainer):
            return
        now, before = module.train_metrics.values(), module.sums_before
        self.sums.append({name: now[name] - before[name] for name in now if name in before})

    def on_save_checkpoint(
        self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the sums over all ranks; every rank has to call it."""
        if self.sums:
            whole = self._whole(trainer, module.device)
            checkpoint["last_steps"] = {name: values.cpu() for name, values in whole.items()}

    def on_load_checkpoint(
        self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take the sums: the first rank has those of all."""
        whole = checkpoint.get("last_steps", {}) if self.sums.maxlen else {}
        if trainer.global_rank:
            whole = {name: torch.zeros_like(values) for name, values in whole.items()}
        for values in zip(*whole.values(), strict=True):
            self.sums.append(dict(zip(whole, values, strict=True)))

    def figures(self, trainer: L.Trainer, module: TrainingModule) -> dict[str, float]:
        """Return ``last_train/<figure>``, the mean over the last steps, and their number.

        Empty if no step is known. Every rank has to call it.
        """
        if not self.sums:
            return {}
        whole = {name: x.tolist() for name, x in self._whole(trainer, module.device).items()}
        steps = [
            dict(zip(whole, values, strict=True)) for values in zip(*whole.values(), strict=True)
        ]
        of_steps = [
            module.figures(sums)
            for sums in steps
            if any(sums.values()) and all(0 <= value < math.inf for value in sums.values())
        ]
        if not of_steps:
            return {}
        means = {
            f"last_train/{name}": math.fsum(figures[name] for figures in of_steps) / len(of_steps)
            for name in module.train_figures
        }
        return {**means, "last_train/num_steps": len(of_steps)}

    def _whole(self, trainer: L.Trainer, device: torch.device) -> dict[str, Tensor]:
        """Return the sums of the steps (steps,) over all ranks, by name."""
        whole = {
            name: torch.stack([sums[name].to(device) for sums in self.sums])
            for name in self.sums[0]
        }
        if trainer.world_size > 1:
            for values in whole.values():
                torch.distributed.all_reduce(values)
        return whole
