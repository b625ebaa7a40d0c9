"""Which device to compute on, and its generation."""

from importlib.util import find_spec

import torch

from src.errors import UserError
from src.wording.nearest import choice_question


def has_kernels() -> bool:
    """Whether our own kernels run: torch for CUDA brings Triton, except on Windows."""
    return torch.cuda.is_available() and find_spec("triton") is not None


def choose_device(name: str, key: str = "device") -> torch.device:
    """Return a device by name: ``auto`` (the fastest here), ``cpu``, ``cuda`` or ``mps``.

    ``gpu`` is either of the last two. ``key`` is the config key of the name, for messages.

    Raises:
        UserError: there is no such device.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    names = {"auto": tuple(available), "gpu": ("cuda", "mps")}.get(name, (name,))
    if not set(names) <= available.keys():
        known = ("auto", "gpu", *available)
        hint = choice_question(name, known)
        raise UserError(f"{key}={name}: must be one of {', '.join(known)}{hint}")
    present = [device for device in names if available[device]]
    if not present:
        raise UserError(f"{key}={name}: this machine has none; use auto or cpu")
    return torch.device(present[0])


def compute_capability(device: str) -> int:
    """Return the generation of the CUDA device (7: Volta, Turing; 8: Ampere, Ada; 9: Hopper).

    0 for any other type of ``device``.
    """
    return torch.cuda.get_device_capability()[0] if device == "cuda" else 0
