"""What the machine is, how fast it multiplies matrices, and what arithmetic training needs."""

import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import psutil
import torch

from src.benchmark.stopwatch import synchronize
from src.data.blocks import Blocks
from src.model.config import GPT2Config

LIBRARIES = ("torch", "lightning", "transformers", "trl")
MATMUL_SIZES = {"cpu": (1024, 2048, 4096), "cuda": (4096, 8192, 16384), "mps": (1024, 2048, 4096)}
MATMUL_SECONDS = 0.5  # for each size and type


def describe(device: torch.device, precision: str) -> dict[str, str | int]:
    """Return what a reader of the figures wants to know of the machine."""
    facts: dict[str, str | int] = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else device.type,
        "precision": precision,
        "processor": _processor(),
        "cores": psutil.cpu_count(logical=False) or psutil.cpu_count() or 1,
        "memory_bytes": psutil.virtual_memory().total,
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "python": platform.python_version(),
    }
    for name in LIBRARIES:
        try:
            facts[name] = version(name)
        except PackageNotFoundError:
            facts[name] = "not installed"
    return facts


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Return the most floating-point operations a second of a square product in ``dtype``."""
    best = 0.0
    for size in MATMUL_SIZES[device.type]:
        a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        torch.mm(a, b)
        synchronize(device)
        began = time.perf_counter()
        while time.perf_counter() - began < MATMUL_SECONDS:
            start = time.perf_counter()
            torch.mm(a, b)
            synchronize(device)
            best = max(best, 2 * size**3 / (time.perf_counter() - start))
    if device.type == "cuda":  # the variants run in other processes, which need the memory
        del a, b
        torch.cuda.empty_cache()
    return best


def needed_flops_per_token(shape: GPT2Config, blocks: Blocks) -> float:
    """Return the floating-point operations that training needs for a real token, on average.

    Forward and backward: 6 for each weight of the layers' matrices; 6 for each weight of the head,
    on supervised tokens alone; attention inside each document, its causal half.
    """
    width = shape.n_embd
    layers = 6 * 12 * width**2 * shape.n_layer
    head = 6 * shape.vocab_size * width * blocks.num_targets / blocks.num_tokens
    lengths = blocks.lengths.astype(np.float64)
    attention = 6 * shape.n_layer * width * float((lengths**2).sum() / lengths.sum())
    return layers + head + attention
