"""The gradient's norm over the steps since the last log: its mean, its peak, how often it was cut.

The norms stay on the device until they are asked for: nothing waits for one, and no step computes
more than the norm itself.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from src.training.distributed import whole_norm

MOST = 1024  # separate norms on the device, before they are put together


class GradientNorms:
    """The norms of the steps since ``figures`` was last called; the same on all ranks."""

    def __init__(self) -> None:
        self.norms: list[Tensor] = []  # each (steps,), on the device
        self.restored = torch.zeros(0)  # (steps,) of before a resume, on the CPU

    def add(self, norm: Tensor) -> None:
        """Take the norm (0-d) of one step, before it was cut."""
        self.norms.append(norm.detach().reshape(1))
        if len(self.norms) > MOST:
            self.norms = [torch.cat(self.norms)]

    def values(self) -> Tensor:
        """Return the norms (steps,) on the CPU, those of skipped steps, not finite, left out."""
        norms = [self.restored]
        if self.norms:
            norms.append(torch.cat(self.norms).cpu())
        found = torch.cat(norms)
        return found[found.isfinite()]

    def restore(self, norms: Tensor | Sequence[float]) -> None:
        """Go on from what ``values`` has returned."""
        self.norms, self.restored = [], torch.as_tensor(norms, dtype=torch.float32).cpu()

    def figures(self, max_norm: float | None) -> dict[str, float]:
        """Return mean, peak, and the share of the steps in which the norm was cut to ``max_norm``.

        None of them, if all steps were skipped; no share, if nothing is cut.
        """
        norms = self.values()
        self.restore(())
        if not len(norms):
            return {}
        figures = {"grad_norm": float(norms.mean()), "grad_norm/max": float(norms.max())}
        if max_norm is not None:
            figures["grad_norm/clipped_share"] = float((norms > max_norm).float().mean())
        return figures


def clip_gradients(model: nn.Module, max_norm: float | None) -> Tensor:
    """Cut the gradients of ``model`` to ``max_norm``, if any; return their norm (0-d) before.

    All on the device: nothing waits for the norm.
    """
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm = whole_norm(get_total_norm(gradients))
    if max_norm is not None:
        torch._foreach_mul_(gradients, torch.clamp(max_norm / (norm + 1e-6), max=1.0))
    return norm
