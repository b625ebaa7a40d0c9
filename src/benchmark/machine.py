"""What the machine is, how fast it multiplies matrices, and what arithmetic training needs."""

import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import psutil
import torch

from src.benchmark.report import LIBRARIES
from src.benchmark.stopwatch import synchronize
from src.data.blocks import Blocks
from src.model.config import GPT2Config

CPU_MATMUL_SIZES, GPU_MATMUL_SIZES = (1024, 2048, 4096), (4096, 8192, 16384)
MATMUL_SECONDS = 0.5  # for each size and type


def describe(device: torch.device, precision: str) -> dict[str, str | int]:
    """Return ``machine.<fact>``: what a reader of the figures wants to know."""
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
    if device.type == "cuda":
        query = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
        facts["driver"] = (_output(*query) or "unknown").splitlines()[0]
    for name in LIBRARIES:
        try:
            facts[name] = version(name)
        except PackageNotFoundError:
            facts[name] = "not installed"
    return {f"machine.{name}": fact for name, fact in facts.items()}


def measured_code() -> dict[str, str | bool]:
    """Return the ``git.commit`` of these files, and whether they differ from it."""
    commit = _output("git", "rev-parse", "HEAD")
    if commit is None:
        return {"git.commit": "unknown"}
    return {"git.commit": commit, "git.dirty": bool(_output("git", "status", "--porcelain"))}


def _output(*command: str) -> str | None:
    """Return what ``command`` prints; None if there is no such program, or it fails."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def matmul_peaks(device: torch.device) -> dict[str, float]:
    """Return the most floating-point operations a second of a square product, by type."""
    types = {"fp32": torch.float32, "bf16": torch.bfloat16}
    if device.type != "cpu":
        types["fp16"] = torch.float16
    peaks = {name: _matmul_peak(device, dtype) for name, dtype in types.items()}
    torch.cuda.empty_cache()  # the variants' processes need the memory
    return peaks


def _matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    best = 0.0
    for size in CPU_MATMUL_SIZES if device.type == "cpu" else GPU_MATMUL_SIZES:
        a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        torch.mm(a, b)
        synchronize(device)
        began = time.perf_counter()
        while time.perf_counter() - began < MATMUL_SECONDS:
            start = time.perf_counter()
            torch.mm(a, b)
            synchronize(device)
            best = max(best, 2 * size**3 / (time.perf_counter() - start))
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
