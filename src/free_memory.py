"""How much memory a process may still take, and what a person is told when there is none.

The machine's free memory is not the process's: a container's or a job's control group (cgroup) may
allow less, and the kernel kills what takes more.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from src.control_groups import CGROUPS, PROC, group_folders, number_in, statistics_in
from src.errors import UserError

GIB = 2**30
UNWATCHED = 64 * 2**20  # bytes that are taken without asking: asking takes a moment, too
NO_LIMIT = 2**60  # version 1 writes a number near 2^63
SIGNS = ("DefaultCPUAll", "std::bad_alloc")  # of torch and of the C++ library, on a CPU
ALLOCATOR = re.compile(r"you tried to allocate (\d+) bytes")  # torch's, on a CPU


class Group(NamedTuple):
    """The files of one version of control groups: limits, what is used, what of it can go."""

    limits: tuple[str, ...]
    used: str
    reclaimable: str  # a line of memory.stat

    def room(self, folder: Path) -> int:
        """Return the bytes that may still be taken in the group of a folder."""
        limits = [number_in(folder / name) for name in self.limits]
        known = [limit for limit in limits if limit is not None and limit < NO_LIMIT]
        statistics = statistics_in(folder / "memory.stat")
        if limit := statistics.get("hierarchical_memory_limit"):  # of groups that are not seen here
            known.append(limit)
        if not known or min(known) >= NO_LIMIT:
            return NO_LIMIT
        used = (number_in(folder / self.used) or 0) - statistics.get(self.reclaimable, 0)
        return max(0, min(known) - max(0, used))


VERSION_1 = Group(("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file")
VERSION_2 = Group(("memory.max", "memory.high"), "memory.current", "inactive_file")


def free_memory(num_processes: int = 1, proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """Return the bytes that each of ``num_processes`` may still take.

    The least of what the machine has free, what the control groups allow and what
    ``ulimit -v`` leaves to this process.

    Args:
        num_processes: that share the machine and the group.
        proc: the kernel's folder of processes.
        cgroups: where the control groups are mounted.
    """
    import psutil  # only here: a chat of a small model starts sooner without it

    shared = min(psutil.virtual_memory().available, group_room(proc, cgroups))
    return min(shared // num_processes, _address_space(proc))


def has_hard_limit(proc: Path = PROC, cgroups: Path = CGROUPS) -> bool:
    """Whether a control group or ``ulimit -v`` allows less than the machine has free."""
    import psutil

    limit = min(group_room(proc, cgroups), _address_space(proc))
    return limit < psutil.virtual_memory().available


def group_room(proc: Path, cgroups: Path) -> int:
    """Return the bytes that this process's control group, and those that hold it, still allow."""
    folders = group_folders("memory", proc, cgroups)
    rooms = [(VERSION_1 if version == 1 else VERSION_2).room(folder) for version, folder in folders]
    return min(rooms, default=NO_LIMIT)


def _address_space(proc: Path) -> int:
    """Return the bytes that ``ulimit -v`` leaves."""
    try:
        import resource
    except ImportError:  # Windows
        return NO_LIMIT
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return NO_LIMIT
    try:
        pages = int((proc / "self" / "statm").read_text(encoding="utf-8").split()[0])
    except OSError:  # no Linux
        pages = 0
    return max(0, limit - pages * resource.getpagesize())


def check_room(needed: int, what: str, way_out: str) -> None:
    """Check that ``needed`` bytes are free; swapping is slow, but it works.

    Raises:
        UserError: they are not.
    """
    if needed <= UNWATCHED:
        return
    import psutil

    free = free_memory()
    swap = 0 if has_hard_limit() else psutil.swap_memory().free
    if needed > free + swap:
        raise UserError(
            f"{what}: {written(needed, 1)} are needed and {written(free, 1)} are free: "
            f"{way_out}, or free some memory"
        )


@contextmanager
def memory_for(what: str, way_out: str) -> Iterator[None]:
    """Say what was done and how to go on, if memory runs out meanwhile.

    Raises:
        UserError: it has run out.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not (cause := out_of_memory(error)):
            raise
        raise UserError(f"out of memory while {what}: {cause}: {way_out}") from None


def out_of_memory(error: BaseException) -> str | None:
    """Return how much was asked for and is free, if ``error`` says that memory has run out."""
    match = ALLOCATOR.search(str(error))
    is_cuda = type(error).__name__ == "OutOfMemoryError"
    has_sign = isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)
    if not (isinstance(error, MemoryError) or is_cuda or match or has_sign):
        return None
    if is_cuda:
        return str(error).splitlines()[0].removesuffix(".")
    asked = f"it asked for {written(int(match[1]))}, " if match else ""
    return f"{asked}{written(free_memory())} are free"


def written(num_bytes: int, decimals: int = 2) -> str:
    """Return a size as a person reads it: in GiB, or below a tenth of one in MiB or KiB."""
    units = (("GiB", GIB), ("MiB", 2**20), ("KiB", 2**10))
    unit, size = next((each for each in units if num_bytes >= each[1] / 10), units[-1])
    return f"{num_bytes / size:,.{decimals}f} {unit}"
