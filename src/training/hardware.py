"""What the machine has decides precision and micro-batch; never batch size or learning rate."""

import ctypes
import platform

import psutil
import torch

from src.errors import UserError
from src.model.gpt2 import GPT2
from src.training.config import AUTO, TrainerConfig

CPU_TOKENS = 4096  # positions of a micro-batch on a CPU: more is no faster
GPU_BLOCKS = 64


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
    """Return the precision to train in: as configured, or the fastest the device is good at."""
    if config.precision != AUTO:
        if device == "cpu" and config.precision == "16-mixed":
            raise UserError(
                "trainer.precision=16-mixed does not run on a CPU: use 32-true or bf16-mixed"
            )
        return config.precision
    if device == "cuda":
        return "bf16-mixed" if torch.cuda.get_device_capability()[0] >= 8 else "16-mixed"
    if device == "cpu" and torch.cpu._is_avx512_bf16_supported():
        return "bf16-mixed"
    return "32-true"


def choose_micro_batch_size(model: GPT2, block_size: int, device: str) -> int:
    """Return how many blocks a device takes at a time, at most.

    Estimates what a block's activations need and fills half of the memory that weights, gradients
    and optimizer state leave.
    """
    shape = model.config
    if device == "cpu":
        total, limit = psutil.virtual_memory().available, max(1, CPU_TOKENS // block_size)
    elif device == "cuda":
        total, limit = torch.cuda.get_device_properties(0).total_memory, GPU_BLOCKS
    else:
        total, limit = torch.mps.recommended_max_memory(), 8
    # Per position: some 20 activations of a layer's width (the MLP's are four wide), the head's
    # scores and their gradient, all taken as 4 bytes.
    per_block = 4 * block_size * (20 * shape.n_layer * shape.n_embd + 3 * shape.vocab_size)
    room = 0.5 * (total - 16 * model.num_parameters)
    return int(max(1, min(limit, room // per_block)))
