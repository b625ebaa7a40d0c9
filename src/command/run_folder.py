"""The folder of a single run: made when the settings are right, and kept if the run has begun.

Hydra 1.3 makes the folder before it calls the job, and what a callback of Hydra's raises becomes a
warning. So the check stands around the function of Hydra that makes folder, log and job of a single
run. The jobs of a sweep have folders whatever becomes of them.
"""

import copy
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from hydra._internal import hydra as hydra_runs
from omegaconf import DictConfig, OmegaConf, open_dict

from src import signals

# What Hydra and the start of a run write before the run itself does.
BEFORE_A_RUN = (".hydra", "run.lock", "status.json")

Check = Callable[[DictConfig, list[str]], object]


@contextmanager
def folder_once_checked(check: Check, mistakes: Collection[Exception]) -> Iterator[None]:
    """Let Hydra make the folder of a single run only when ``check`` has passed.

    If the run is refused later, or stopped by a signal, before it has written anything, what Hydra
    has made is removed.

    Args:
        check: gets the config and the overrides; raises what is wrong.
        mistakes: grows while the job runs, if it is refused.
    """
    run_job = hydra_runs.run_job

    def checked_job(*, config: DictConfig, **options: Any) -> Any:
        overrides: Any = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
        check(_of_the_job(config), overrides)
        unused = Unused(Path(str(config.hydra.run.dir)), f"{config.hydra.job.name}.log")
        signals.at_end(unused.remove)
        result = run_job(config=config, **options)
        if mistakes:
            unused.remove()
        return result

    hydra_runs.run_job = cast(Any, checked_job)
    try:
        yield
    finally:
        hydra_runs.run_job = run_job


def _of_the_job(config: DictConfig) -> DictConfig:
    job = copy.deepcopy(config)
    OmegaConf.set_readonly(job, False)
    with open_dict(job):
        del job["hydra"]
    return job


class Unused:
    """What lies in a folder, and which of its parents are missing, before Hydra makes it."""

    def __init__(self, folder: Path, log: str):
        self.folder = folder
        self.before = _names(folder)
        self.made = [each for each in (folder, *folder.parents) if not each.exists()]
        self.removable = {*BEFORE_A_RUN, log}

    def remove(self) -> None:
        """Remove what is new since then, unless a run has written something there."""
        new = _names(self.folder) - self.before
        if new - self.removable:
            return
        for name in new:
            path = self.folder / name
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        for folder in self.made:
            with suppress(OSError):  # it is not there, or another run is in it
                folder.rmdir()


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()
