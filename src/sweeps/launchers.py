"""What starts the jobs of a sweep, and how they share a machine."""

import multiprocessing
import signal
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from hydra.conf import HydraConf
from omegaconf import DictConfig

from src.free_cores import num_cores

# What a person writes, and the package that does it; all are in the extra ``sweep``.
NEEDS = {
    "sweep=optuna": "optuna",
    "hydra/sweeper=optuna_pruning": "optuna",
    "hydra/launcher=joblib": "hydra_plugins.hydra_joblib_launcher",
    "hydra/launcher=submitit_local": "hydra_plugins.hydra_submitit_launcher",
    "hydra/launcher=submitit_slurm": "hydra_plugins.hydra_submitit_launcher",
}


WORKER = "popen_loky"  # in the command line of a process of joblib's


def needed(arguments: Sequence[str]) -> dict[str, str]:
    """Return the packages that a command line needs: what is written there -> module."""
    return {argument: NEEDS[argument] for argument in arguments if argument in NEEDS}


def side_by_side(hydra: DictConfig) -> int | None:
    """Return how many jobs of a sweep run at a time; None: all of them, however many.

    Args:
        hydra: Hydra's part of a sweep's or a job's config.
    """
    sweeper, launcher = hydra.sweeper, hydra.launcher
    if _is(launcher, "BasicLauncher"):
        return 1
    at_most = sweeper.get("n_jobs") or sweeper.get("max_batch_size")
    if _is(launcher, "JoblibLauncher"):
        processes = launcher.n_jobs if launcher.n_jobs > 0 else num_cores()
        return min(at_most or processes, processes)
    if at_most is None and "n_jobs" in sweeper:  # a study learns nothing from all at once
        return 1
    return at_most


def is_in_worker(hydra: DictConfig | HydraConf) -> bool:
    """Whether this process is one of those among which joblib shares out the jobs of a sweep."""
    return _is(hydra.launcher, "JoblibLauncher") and multiprocessing.parent_process() is not None


def hand_on(received: signal.Signals) -> bool:
    """Give a signal to the processes of joblib; return whether there are any to wait for.

    Each run ends as one alone does: after its step, with a checkpoint.
    """
    import psutil

    number = received if received in (signal.SIGINT, signal.SIGTERM) else signal.SIGTERM
    workers = []
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if any(WORKER in word for word in child.cmdline()):
                workers.append(child)
                child.send_signal(number)
    return bool(workers)


def threads_of_a_job(hydra: DictConfig) -> int | None:
    """Return how many threads a job may use beside the others; None: as many as it finds.

    joblib tells its processes by itself, and SLURM gives each job cores of its own. Jobs of
    submitit's local launcher know nothing of each other.
    """
    if not _is(hydra.launcher, "LocalLauncher"):
        return None
    if hydra.launcher.cpus_per_task is not None:
        return int(hydra.launcher.cpus_per_task)
    cores = num_cores()
    return max(1, cores // (side_by_side(hydra) or cores))


def _is(launcher: Any, name: str) -> bool:
    return str(launcher._target_).endswith(f".{name}")
