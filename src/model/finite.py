"""Whether tensors hold NaN or infinity."""

from collections.abc import Callable, Mapping

from torch import Tensor
from torch.nn.utils import get_total_norm


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """Return the name of a tensor that holds NaN or infinity, or None.

    One norm over all of them tells, at the memory's speed; a GPU is waited for once. Of sharded
    tensors every rank gets the same answer, and has to ask.
    """
    numbers = {name: x.detach() for name, x in tensors.items() if x.is_floating_point()}
    if _whole(get_total_norm(numbers.values())).isfinite():
        return None
    bad = (name for name, x in numbers.items() if not _whole(x.isfinite().all()))
    return next(bad, None)  # None: only their squares are too large


def _whole(x: Tensor) -> Tensor:
    # Of a DTensor, whose import takes a while.
    full_tensor: Callable[[], Tensor] | None = getattr(x, "full_tensor", None)
    return x if full_tensor is None else full_tensor()
