"""What the machine is, how fast it multiplies matrices, and what arithmetic training needs."""

import platform
import subprocess
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import psutil
import torch
from torch.utils.benchmark import Timer

from src.data.blocks import Blocks
from src.evaluation.record import commit, processor
from src.model.config import GPT2Config, ModelConfig

LIBRARIES = ("torch", "lightning", "transformers", "tokenizers", "datasets", "trl", "numpy")
CPU_MATMUL_SIZES, GPU_MATMUL_SIZES = (1024, 2048, 4096), (4096, 8192, 16384)
MATMUL_SECONDS = 0.5  # for each size and type


def describe_machine(device: torch.device, precision: str) -> dict[str, str | int]:
    """Return ``git.commit`` of these files and ``machine.<fact>``, libraries' versions too."""
    facts: dict[str, str | int] = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else device.type,
        "precision": precision,
        "processor": processor(),
        "cores": psutil.cpu_count(logical=False) or psutil.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "memory_bytes": psutil.virtual_memory().total,
        "python": platform.python_version(),
        **{name: version(name) if find_spec(name) else "not installed" for name in LIBRARIES},
    }
    if device.type == "cuda":
        facts["driver"] = _output(
            "nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"
        )
    return {"git.commit": commit()} | {f"machine.{name}": fact for name, fact in facts.items()}


def _output(*command: str) -> str:
    """Return the first line that a command prints, or why there is none."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent)
    except FileNotFoundError:
        return f"unknown: {command[0]} is not installed"
    return next(iter(done.stdout.splitlines()), f"unknown: {command[0]} says nothing")


def matmul_peaks(device: torch.device) -> dict[str, float]:
    """Return the most floating-point operations a second of a square product, by type."""
    types = {"fp32": torch.float32, "bf16": torch.bfloat16}
    sizes = CPU_MATMUL_SIZES
    if device.type != "cpu":
        types["fp16"] = torch.float16
        sizes = GPU_MATMUL_SIZES
    peaks = {
        name: max(_matmul_speed(size, device, dtype) for size in sizes)
        for name, dtype in types.items()
    }
    torch.cuda.empty_cache()  # the variants' processes need the memory
    return peaks


def _matmul_speed(size: int, device: torch.device, dtype: torch.dtype) -> float:
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    timer = Timer("a @ b", globals={"a": a, "b": b}, num_threads=torch.get_num_threads())
    times = timer.blocked_autorange(min_run_time=MATMUL_SECONDS).times
    return 2 * size**3 / min(times)


def needed_flops_per_token(shape: GPT2Config | ModelConfig, blocks: Blocks) -> float:
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
