"""Whether two runs are the same to the last bit, and what a fault must not leave behind."""

import json
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from src.errors import UserError
from src.training.checkpoints import find_checkpoint
from src.training.curves import read_history
from src.training.events import event_files, events_folder

TIMED = ("train_seconds", "real_tokens_per_second", "seconds/", "perf/")
# Of a checkpoint: what counts time, and what describes files that name a second and a process.
NOT_COMPARED = {
    *("event_sizes", "train_seconds", "logged_seconds", "seconds"),
    "loops",  # what Lightning has counted of the validation before a run
}


def assert_same(run: Path, whole: Path) -> None:
    """Weights, optimizer, generators, figures, best model and points of both are the same."""
    one, two = (checkpoint(folder) for folder in (whole, run))
    differing = list(differences(one, two))
    assert not differing, differing[:5]
    best = [load_file(folder / "model" / "model.safetensors") for folder in (whole, run)]
    assert not list(differences(*best))
    assert figures(run) == figures(whole)
    assert points(run) == points(whole)
    assert table(run) == table(whole)


def checkpoint(run: Path) -> dict[str, Any]:
    path = run / "checkpoints" / "last.ckpt"
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


def differences(one: Any, two: Any, name: str = "") -> Any:
    """Yield the names of what differs between two nested values."""
    if isinstance(one, torch.Tensor):
        if not (isinstance(two, torch.Tensor) and torch.equal(one, two)):
            yield name
    elif isinstance(one, dict) and isinstance(two, dict):
        for key in sorted({*one, *two} - NOT_COMPARED, key=str):
            if str(key).startswith(TIMED):
                continue
            yield from differences(one.get(key), two.get(key), f"{name}/{key}")
    elif isinstance(one, list | tuple) and isinstance(two, list | tuple) and len(one) == len(two):
        for number, (left, right) in enumerate(zip(one, two, strict=True)):
            yield from differences(left, right, f"{name}/{number}")
    elif one != two:
        yield f"{name}: {one!r} and {two!r}"


def figures(run: Path) -> dict[str, float]:
    return untimed(json.loads((run / "metrics.json").read_text(encoding="utf-8")))


def untimed(figures: dict[str, float]) -> dict[str, float]:
    """Return the figures that do not depend on how fast the machine is."""
    return {key: value for key, value in figures.items() if not key.startswith(TIMED)}


def points(run: Path) -> list[tuple[str, int, float]]:
    """Every point of a run, in the order of its files; speeds apart."""
    found = []
    for path in event_files(events_folder(run)):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.tensor.float_val and not value.tag.startswith("perf/"):
                    found.append((value.tag, event.step, value.tensor.float_val[0]))
    return found


def table(run: Path) -> list[dict[str, str]]:
    """The rows of a run's history, without what a clock or the machine says."""
    return [
        {k: v for k, v in row.items() if k != "seconds" and not k.startswith("perf/")}
        for row in read_history(run / "history.csv")
    ]


def assert_saved_whole(run: Path) -> None:
    """What the run has saved can be read: no moment has only damaged checkpoints."""
    try:
        find_checkpoint(run)
    except UserError as error:
        raise AssertionError(str(error)) from error


def left_behind(folder: Path) -> list[str]:
    """Return what is left of writing: parts, older folders, locks of runs."""
    return [
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.name.endswith((".tmp", ".old", ".incomplete")) or path.name == "run.lock"
    ]


def processes(mark: str) -> list[psutil.Process]:
    """Return the processes whose environment holds ``MARK=<mark>``."""
    found = []
    for process in psutil.process_iter():
        try:
            alive = process.status() != psutil.STATUS_ZOMBIE
            if alive and process.environ().get("MARK") == mark:
                found.append(process)
        except psutil.Error:
            continue
    return found


def orphans(mark: str, session: int, seconds: float = 60) -> list[str]:
    """Return what still runs of a door that has ended, once it has had time to see that.

    torch's workers look for their parent every five seconds.
    """
    end = time.monotonic() + seconds
    while left := [*processes(mark), *_of_session(session)]:
        if time.monotonic() > end:
            return [str(process) for process in left]
        time.sleep(0.05)
    return []


def _of_session(session: int) -> list[psutil.Process]:
    import os

    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found
