"""One run of a sweep: silent at the terminal, and whatever ends it stops no other run."""

import contextlib
import gc
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from hydra.types import RunMode
from omegaconf import ListConfig, OmegaConf

from src import signals
from src.command.cli import MISTAKES, as_typed, one_line
from src.errors import UserError
from src.streams import Screen
from src.sweeps.launchers import threads_of_a_job
from src.sweeps.names import rounded, run_folder_name, short_keys
from src.sweeps.state import SWEEP, Sweep, read_sweep, write_job
from src.training import status
from src.training.record import Values
from src.wording.command_line import unquoted

if TYPE_CHECKING:
    from src.training.pruning import FindBetter

T = TypeVar("T")
log = logging.getLogger(__name__)


def run_job(
    job: Callable[[], T], folder: Path, log_file: Path, overrides: Sequence[str]
) -> T | None:
    """Call ``job``, a run of a sweep in ``folder``; return its value, or None if it fails.

    What it would write to the terminal goes into its log, its traceback too; why it failed is in
    its status.

    Args:
        job: the run.
        folder: of the run.
        log_file: of the run.
        overrides: its values, as Hydra got them.
    """
    if signals.remembers() and signals.received() is not None:
        return None  # its sweep ends: the run stays to be gone on with
    _write_values(folder, overrides)
    with (
        log_file.open("a", encoding="utf-8", errors="backslashreplace", buffering=1) as stream,
        _silent(stream),
    ):
        try:
            return job()
        except MISTAKES as error:
            _fail(folder, overrides, one_line(error), True)
        except Exception as error:
            reason, is_mistake = status.explain(error, folder)
            _fail(folder, overrides, reason, is_mistake, None if is_mistake else error)
        except SystemExit as error:
            if _was_stopped(folder):
                if signals.remembers():  # the others of the sweep have their last step to take
                    return None
                raise
            _fail(folder, overrides, *status.explain(error, folder))
        finally:
            _free_memory()
    return None


def _fail(
    folder: Path,
    overrides: Sequence[str],
    reason: str,
    is_mistake: bool,
    error: Exception | None = None,
) -> None:
    from src.training.hparams import write_refused

    status.write_failure(folder, reason, is_mistake)
    log.error("error: %s", reason, exc_info=error)
    write_refused(folder, swept(folder, overrides))


def _was_stopped(folder: Path) -> bool:
    """Whether a signal ended the run, in good order: the sweep ends with it."""
    found = status.read_status(folder)
    return found is not None and found.state == status.STOPPED


@contextlib.contextmanager
def _silent(stream: TextIO) -> Iterator[None]:
    """Write into ``stream`` what is meant for the terminal; what is logged, the log has."""
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if isinstance(handler, Screen):
            root.removeHandler(handler)
    with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
        yield


def _free_memory() -> None:
    """Give back what a run had, for the next one in this process."""
    gc.collect()
    if "torch" in sys.modules:
        import torch

        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()


def join_sweep(hydra: Any, folder: Path) -> "FindBetter | None":
    """Take this job's share of the machine; return who knows whether its sweep has better ones.

    Args:
        hydra: Hydra's part of the job's config.
        folder: of the job.
    """
    if hydra.mode == RunMode.RUN:
        return None
    threads = threads_of_a_job(hydra)
    if threads is not None:
        import torch

        os.environ["OMP_NUM_THREADS"] = str(threads)  # of the processes that it starts
        torch.set_num_threads(threads)
    if hydra.sweeper.get("trial") is None:
        return None
    from src.sweeps.pruning import JobTrial

    trial = JobTrial.of_job(hydra, folder)
    return None if trial is None else trial.find_better


def swept(folder: Path, overrides: Sequence[str]) -> Values:
    """Return the values that the run in ``folder`` has and others of its sweep have not."""
    folder = folder.absolute()
    for parent in folder.parents[:2]:
        sweep = _sweep(parent)
        if sweep is not None:
            jobs = {parent / job.folder: job.values for job in sweep.jobs}
            return jobs.get(folder) or own_values(overrides, sweep)
    return {}


def job_folder(sweep_folder: str, number: int, overrides: Any) -> str:
    """Return the name of the folder of a run: for ``hydra.sweep.subdir`` in ``conf/train.yaml``.

    Args:
        sweep_folder: of the sweep.
        number: of the run; Hydra counts from 0.
        overrides: of the run.
    """
    typed = as_typed(overrides) if isinstance(overrides, ListConfig) else list(overrides)
    sweep = _sweep(Path(sweep_folder))
    resumed = [o.removeprefix("resume=") for o in typed if o.startswith("resume=")]
    if resumed:
        folder = Path(unquoted(resumed[-1]))
        base = Path(sweep_folder)
        return folder.relative_to(base).as_posix() if folder.is_relative_to(base) else folder.name
    if sweep is not None and sweep.jobs:
        return sweep.jobs[number].folder
    values = own_values(typed, sweep)
    shorts = short_keys(list(values))
    read = {shorts[key]: rounded(value) for key, value in values.items()}  # the number is unique
    return run_folder_name(read, number)


def own_values(overrides: Sequence[str], sweep: Sweep | None) -> dict[str, Any]:
    """Return the values that only this run of a sweep has, by the overrides that all share.

    Without a record, those are the ones of this process's command line.
    """
    shared = set(sys.argv) if sweep is None else set(sweep.fixed)
    own = [o.partition("=") for o in overrides if o not in shared and "=" in o]
    return {key.lstrip("+"): _value(text) for key, _, text in own if key != "resume"}


def _value(text: str) -> Any:
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    words = {"true": True, "false": False, "null": None}
    return words.get(text.lower(), unquoted(text))


def _sweep(folder: Path) -> Sweep | None:
    return read_sweep(folder) if (folder / SWEEP).exists() else None


def _write_values(folder: Path, overrides: Sequence[str]) -> None:
    """Write down the values of a run that nobody knew before it started."""
    for parent in folder.parents[:2]:
        if not (parent / SWEEP).exists():
            continue
        with contextlib.suppress(UserError):  # of an onlooker's interest only
            sweep = read_sweep(parent)
            if not sweep.jobs:
                write_job(folder, own_values(overrides, sweep))
        return


OmegaConf.register_new_resolver("job_folder", job_folder, replace=True)
