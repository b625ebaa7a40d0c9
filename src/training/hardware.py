"""What the machine has decides precision and micro-batch; never batch size or learning rate."""

import ctypes
import platform

import psutil
import torch

from src.errors import UserError
from src.model.device import compute_capability
from src.training.config import AUTO, TrainerConfig
from src.training.memory import TrainingStep

CPU_TOKENS = 4096  # positions of a micro-batch on a CPU: more is no faster
GPU_BLOCKS = 64
MPS_BLOCKS = 8
SHARE_FILLED = 0.85  # of the device's memory, by the estimate: it may be as much too low


def keep_freed_memory() -> bool:
    """Have the C library keep freed memory for the next step; return whether it will.

    glibc gives every large buffer back to the kernel when it is freed, and the next one is mapped
    and zeroed page by page: a quarter of a training step on a CPU. See mallopt(3).
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mmap_max, trim_threshold = -4, -1  # malloc.h: M_MMAP_MAX, M_TRIM_THRESHOLD
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(mmap_max, 0) and libc.mallopt(trim_threshold, -1))


def choose_precision(config: TrainerConfig, device: str) -> str:
    """Return the precision to train in: as configured, or the fastest the device is good at.

    Raises:
        UserError: the device is not good at what is configured.
    """
    has_bf16 = device != "cuda" or compute_capability(device) >= 8  # before, torch imitates it
    if config.precision != AUTO:
        if device == "cpu" and config.precision == "16-mixed":
            raise UserError(
                "trainer.precision=16-mixed does not run on a CPU: use 32-true or bf16-mixed"
            )
        if config.precision == "bf16-mixed" and not has_bf16:
            raise UserError(
                "trainer.precision=bf16-mixed: this GPU has no bf16 (Ampere and later have) and "
                "would only imitate it, slowly: use 16-mixed"
            )
        return config.precision
    if device == "cuda":
        return "bf16-mixed" if has_bf16 else "16-mixed"
    if device == "cpu" and torch.cpu._is_avx512_bf16_supported():
        return "bf16-mixed"
    return "32-true"


def device_memory(device: str, num_processes: int = 1) -> int:
    """Return the bytes that a process can train in: all of a GPU's, its share of a CPU's free."""
    if device == "cuda":
        return torch.cuda.get_device_properties(0).total_memory
    if device == "mps":
        return torch.mps.recommended_max_memory()
    return psutil.virtual_memory().available // num_processes


def choose_micro_batch_size(step: TrainingStep, memory: int) -> int:
    """Return how many blocks a device takes at a time, at most: what ``memory`` bytes hold."""
    limits = {"cpu": max(1, CPU_TOKENS // step.block_size), "cuda": GPU_BLOCKS, "mps": MPS_BLOCKS}
    room = SHARE_FILLED * memory
    fitting = [n for n in range(1, limits[step.device] + 1) if step.memory(n).total <= room]
    return max(fitting, default=1)
