"""What a run computes on. It is decided before the rows are read."""

import ctypes
import platform
from dataclasses import dataclass

import torch

from src.errors import UserError
from src.free_cores import load_now, num_cores
from src.free_memory import free_memory, has_hard_limit
from src.model.device import choose_device, compute_capability
from src.shared_cores import auto_threads, can_move, choose_threads
from src.training.config import AUTO, PRECISIONS, Precision, TrainConfig, TrainerConfig
from src.training.distributed import choose_strategy
from src.training.place import Place


@dataclass(frozen=True)
class Machine:
    """What the run computes on."""

    place: Place
    device: str  # cpu, cuda or mps
    capability: int  # of the device; see ``compute_capability``
    memory: int  # bytes that a process can train in
    precision: Precision
    strategy: str  # single, ddp or fsdp
    cores: int = 1  # that a process may use
    free_cores: int = 1  # of them, those that no other program kept busy at the start
    threads: int = 1  # that compute; another number rounds otherwise
    is_limited: bool = False  # a container or ``ulimit`` allows less memory than the machine has

    @property
    def num_shards(self) -> int:
        """Devices that weights, gradients and optimizer state are spread over."""
        return self.place.world_size if self.strategy == "fsdp" else 1


def decide(config: TrainConfig, place: Place) -> Machine:
    """Return the machine of a run whose processes are there.

    Raises:
        UserError: a setting does not go with the device or with another setting.
    """
    device = choose_device(config.trainer.accelerator, "trainer.accelerator").type
    precision = choose_precision(config.trainer, device)
    free = min(load_now().num_free(), num_cores())
    return Machine(
        place=place,
        device=device,
        capability=compute_capability(device),
        memory=device_memory(device, place.local_size),
        precision=precision,
        strategy=choose_strategy(config.trainer, precision, place.world_size),
        cores=num_cores(),
        free_cores=free,
        threads=decide_threads(config, place, device, free),
        is_limited=device == "cpu" and has_hard_limit(),
    )


def decide_threads(config: TrainConfig, place: Place, device: str, free: int) -> int:
    """Return how many threads compute: as configured, or as many as ``free`` cores serve well."""
    if isinstance(config.trainer.threads, int):
        return config.trainer.threads
    most = auto_threads(place.local_size, config.data.num_workers)
    if device != "cpu" or place.world_size > 1:  # they share the cores, whoever is beside them
        return most
    return choose_threads(most, free, can_move())


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


def choose_precision(config: TrainerConfig, device: str) -> Precision:
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
        return PRECISIONS[PRECISIONS.index(config.precision)]
    if device == "cuda":
        return "bf16-mixed" if has_bf16 else "16-mixed"
    if device == "cpu" and torch.cpu._is_avx512_bf16_supported():
        return "bf16-mixed"
    return "32-true"


def device_memory(device: str, num_processes: int = 1) -> int:
    """Return the bytes that a process can train in: all of a GPU's, its share of a CPU's free.

    What a container or ``ulimit -v`` does not allow is not free.
    """
    if device == "cuda":
        return torch.cuda.get_device_properties(0).total_memory
    if device == "mps":
        return torch.mps.recommended_max_memory()
    return free_memory(num_processes)
