"""How many cores a process may use, and how many of them no other program keeps busy.

The machine's cores are not the process's: an affinity mask, a container's quota or SLURM may allow
fewer, and threads beyond them wait for each other.
"""

import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from src.control_groups import CGROUPS, PROC, group_folders, number_in, statistics_in

QUIET = 0.2  # of a core: others that use less of it have left it
BUSY = 0.35  # of a core: others that use more of it take it; half is what a fair scheduler gives
LONGEST = 10.0  # seconds: what was used before says nothing of now
SHORTEST = 0.3  # seconds: the kernel counts in hundredths


_mask: frozenset[int] | None = None  # of this process, while it keeps its threads on fewer cores


def keep_mask(mask: frozenset[int] | None) -> frozenset[int] | None:
    """Remember the affinity mask while threads are on some of its cores; None: they are on all.

    Returns what was remembered before.
    """
    global _mask
    before, _mask = _mask, mask
    return before


def binds_threads(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether OpenMP keeps each thread on a core of its own, as a person asked.

    It then binds the main thread, too, when torch is imported (GOMP_CPU_AFFINITY in libgomp's
    manual).
    """
    if bind := environment.get("OMP_PROC_BIND", "").strip().lower():
        return bind != "false"
    return bool(environment.get("GOMP_CPU_AFFINITY") or environment.get("OMP_PLACES"))


def keep_mask_of_start() -> None:
    """Remember the affinity mask where OpenMP narrows it; to be called before torch is imported."""
    if binds_threads() and hasattr(os, "sched_getaffinity"):
        keep_mask(frozenset(os.sched_getaffinity(0)))


def allowed_cores() -> frozenset[int]:
    """Return the numbers of the cores of the affinity mask; where there is none, of all."""
    if _mask is not None:
        return _mask
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def num_cores(
    proc: Path = PROC, cgroups: Path = CGROUPS, environment: Mapping[str, str] = os.environ
) -> int:
    """Return how many cores this process may use: one at least.

    The least of the affinity mask, the whole cores of the control groups' quotas, and what SLURM
    gives a task. Part of a core is no core: threads that share it stop all others with them.

    Args:
        proc: the kernel's folder of processes.
        cgroups: where the control groups are mounted.
        environment: where SLURM says ``--cpus-per-task``.
    """
    limits = [float(len(allowed_cores())), *(quota for _, quota in _quotas(proc, cgroups))]
    if (given := environment.get("SLURM_CPUS_PER_TASK", "")).isdigit():
        limits.append(int(given))
    return max(1, math.floor(min(limits)))


def spare_cores(num_processes: int = 1) -> int:
    """Return how many processes may work for each of ``num_processes``, beside it: maybe none."""
    return max(0, num_cores() // num_processes - 1)


def _quotas(proc: Path, cgroups: Path) -> Iterator[tuple[Path, float]]:
    """Yield the groups that limit this process, and how many cores each of them allows."""
    for version, folder in group_folders("cpu", proc, cgroups):
        if version == 1:
            quota = number_in(folder / "cpu.cfs_quota_us")  # -1: none
            period = number_in(folder / "cpu.cfs_period_us")
        else:
            try:
                words = (folder / "cpu.max").read_text(encoding="utf-8").split()
            except OSError:
                continue
            quota, period = (int(word) if word.isdigit() else None for word in [*words, ""][:2])
        if quota and period:
            yield folder, quota / period


@dataclass(frozen=True)
class Look:
    """Seconds of processor time that have been used until a moment."""

    moment: float  # seconds of a clock
    own: float  # by this process, in all its threads
    by_core: Mapping[int, float]  # by all programs, on each core
    by_group: Mapping[Path, tuple[float, float]]  # cores a limited group allows, and its seconds


def look(proc: Path = PROC, cgroups: Path = CGROUPS) -> Look:
    """Return what has been used until now."""
    groups = {folder: (quota, _group_seconds(folder)) for folder, quota in _quotas(proc, cgroups)}
    known = {folder: (quota, used) for folder, (quota, used) in groups.items() if used is not None}
    return Look(time.monotonic(), time.process_time(), _core_seconds(proc), known)


def _core_seconds(proc: Path) -> dict[int, float]:
    """Return the seconds that programs have used on each core; not what a host took away.

    Where the system does not say, it is empty, and all cores count as free.
    """
    try:
        return _counted_seconds(proc)
    except OSError:
        return {}


def _counted_seconds(proc: Path) -> dict[int, float]:
    if not (proc / "stat").exists():  # no Linux
        import psutil

        return {i: t.user + t.system for i, t in enumerate(psutil.cpu_times(percpu=True))}
    ticks = os.sysconf("SC_CLK_TCK")
    found = {}
    for line in (proc / "stat").read_text(encoding="utf-8").splitlines():
        name, *numbers = line.split()
        if name.startswith("cpu") and name[3:].isdigit():
            found[int(name[3:])] = sum(map(int, numbers[:3])) / ticks  # user, nice, system
    return found


def _group_seconds(folder: Path) -> float | None:
    if (usage := statistics_in(folder / "cpu.stat").get("usage_usec")) is not None:
        return usage / 1e6
    names = ["cpuacct" if name == "cpu" else name for name in folder.parts]  # its other mount
    found = (number_in(place / "cpuacct.usage") for place in (folder, Path(*names)))
    return next((usage / 1e9 for usage in found if usage is not None), None)


@dataclass(frozen=True)
class Load:
    """What was used between two looks, in cores."""

    own: float
    by_core: Mapping[int, float]  # by all programs
    room: float  # cores that others leave to this process, a part of one included

    @classmethod
    def between(cls, before: Look, after: Look, allowed: frozenset[int]) -> "Load":
        """Return the load on the ``allowed`` cores from one look to a later one."""
        seconds = max(after.moment - before.moment, 1e-9)
        own = (after.own - before.own) / seconds
        by_core = {
            core: (used - before.by_core[core]) / seconds
            for core, used in after.by_core.items()
            if core in allowed and core in before.by_core
        }
        rooms = [len(allowed) - max(0.0, sum(by_core.values()) - own)]
        for folder, (quota, used) in after.by_group.items():
            if folder in before.by_group:
                in_group = (used - before.by_group[folder][1]) / seconds
                rooms.append(quota - max(0.0, in_group - own))
        return cls(own, by_core, min(rooms))

    def num_free(self, tolerance: float = BUSY) -> int:
        """Return the whole cores that are left: one at least."""
        return max(1, math.floor(self.room + tolerance))


def next_free(free: int, was_rising: bool, load: Load, most: int) -> tuple[int, bool]:
    """Return how many cores count as free now, and whether more may be.

    A core is lost at once, and won where it was free twice in a row: else the other only pauses.

    Args:
        free: cores that counted as free before.
        was_rising: whether more may have been.
        load: since then.
        most: cores there are.
    """
    now, at_rest = (min(load.num_free(tolerance), most) for tolerance in (BUSY, QUIET))
    is_rising = at_rest > free
    if now < free or not (is_rising and was_rising):
        return min(now, free), is_rising
    return at_rest, is_rising


_first = look()


def load_now(seconds: float = SHORTEST) -> Load:
    """Return the load on the cores that this process may use.

    It watches for ``seconds``, or looks back to when this module was imported, if that is not long
    ago. Processes that this one has started count as others.
    """
    before, now = _first, look()
    if not seconds <= now.moment - before.moment <= LONGEST:
        time.sleep(seconds)
        before, now = now, look()
    return Load.between(before, now, allowed_cores())
