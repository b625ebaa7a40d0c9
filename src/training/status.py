"""``status.json`` in each run folder: how far a run has come, or how it ended.

For onlookers: the lines of a sweep, the list of runs. Nothing goes on from it, so a status that
cannot be written ends no run.
"""

import json
import math
import signal
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from src import signals
from src.errors import UserError, first_line
from src.files import atomic, disk
from src.free_memory import out_of_memory
from src.training import lock
from src.training.record import is_finished

STATUS = "status.json"
MOST_BYTES = 2**16
SECONDS_BETWEEN = 1.0  # two updates, at least
SHARE = 1e-3  # of a run's time that updates may cost

RUNNING, FINISHED, STOPPED, FAILED = "running", "finished", "stopped", "failed"
KILLED = "killed"  # what a file says that it is running, though no process is at it
STATES = (RUNNING, FINISHED, STOPPED, FAILED)
MISTAKE, BUG = 2, 1  # exit codes of a run that failed
NAMES = {"val_loss": "val/loss", "best_val_loss": "best_val/loss"}  # in the file


@dataclass(frozen=True)
class Status:
    """What ``status.json`` holds.

    Attributes:
        state: one of ``STATES``; ``killed`` is only ever read.
        reason: in one line, why a run failed, or the name of the signal that stopped it.
        step: optimizer steps that are done, of ``num_steps``; 0 of 0 before that is known.
        val_loss: of the last validation.
        best_val_loss: of the weights that the run keeps.
        seconds_left: by the pace of this process until now.
        exit_code: of the run, were it alone; None while it runs.
        updated: when this was written, in ISO 8601 with a zone.
    """

    state: str
    reason: str | None = None
    step: int = 0
    num_steps: int = 0
    val_loss: float | None = None
    best_val_loss: float | None = None
    seconds_left: float | None = None
    exit_code: int | None = None
    updated: str = ""

    def as_values(self) -> dict[str, Any]:
        """Return what is written; a figure that is not finite is none."""
        return {
            NAMES.get(name, name): None if _is_not_finite(value) else value
            for name, value in asdict(self).items()
        }


def _is_not_finite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def read_status(folder: Path) -> Status | None:
    """Return the status of the run in ``folder``; None: there is none that can be read.

    A run that was killed could not say so: its file says that it is running, and nobody holds its
    lock. It is finished if it has its figures, as one without a file is, of an older version.
    """
    status = _read(folder / STATUS)
    if status is None:
        return Status(FINISHED, exit_code=0) if is_finished(folder) else None
    if status.state == RUNNING and not lock.is_held(folder):
        status = _read(folder / STATUS) or status  # it may just have ended
        if status.state == RUNNING and is_finished(folder):
            return replace(status, state=FINISHED, seconds_left=None, exit_code=0)
        if status.state == RUNNING:
            return replace(status, state=KILLED, seconds_left=None)
    return status


def _read(path: Path) -> Status | None:
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > MOST_BYTES:
            return None
        content = json.loads(path.read_bytes().decode("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or content.get("state") not in STATES:
        return None
    values = {
        field.name: content.get(NAMES.get(field.name, field.name)) for field in fields(Status)
    }
    texts = {name: values[name] for name in ("state", "reason", "updated")}
    numbers = {name: _number(value) for name, value in values.items() if name not in texts}
    return Status(
        state=content["state"],
        reason=" ".join(texts["reason"].split()) if isinstance(texts["reason"], str) else None,
        step=int(numbers["step"] or 0),
        num_steps=int(numbers["num_steps"] or 0),
        val_loss=numbers["val_loss"],
        best_val_loss=numbers["best_val_loss"],
        seconds_left=numbers["seconds_left"],
        exit_code=None if numbers["exit_code"] is None else int(numbers["exit_code"]),
        updated=texts["updated"] if isinstance(texts["updated"], str) else "",
    )


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and math.isfinite(value) else None


class StatusFile:
    """The status of one run, for the process that is at it."""

    def __init__(self, folder: Path):
        self.path = folder / STATUS
        self.status = _read(self.path) or Status(RUNNING)
        self.next_update = 0.0  # of time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether an update may be written now: updates cost a thousandth of the time at most."""
        return time.monotonic() >= self.next_update

    def write(self, **changes: Any) -> None:
        """Change some values and write all."""
        now = datetime.now().astimezone().isoformat(timespec="milliseconds")
        self.status = replace(self.status, updated=now, **changes)
        begun = time.monotonic()
        with suppress(OSError):  # a full disk: what else the run writes says so
            atomic.write_text(
                self.path, json.dumps(self.status.as_values(), indent=2) + "\n", sweeps=False
            )
        ended = time.monotonic()
        self.next_update = ended + max(SECONDS_BETWEEN, (ended - begun) / SHARE)


def write_begin(folder: Path) -> None:
    """Say that a process is at the run; how far it had come before stays."""
    file = StatusFile(folder)
    file.write(state=RUNNING, reason=None, seconds_left=None, exit_code=None)
    _running.add(folder.resolve())
    signals.at_end(_write_killed)


def write_end(folder: Path, stopped_by: int | None) -> None:
    """Say that the run is finished, or which signal stopped it."""
    _running.discard(folder.resolve())
    file = StatusFile(folder)
    if stopped_by is None:  # the run has said why it ended before its last step, if it did
        state, reason, code = FINISHED, file.status.reason, 0
    else:
        state, reason, code = STOPPED, signal.Signals(stopped_by).name, 128 + stopped_by
    file.write(state=state, reason=reason, seconds_left=None, exit_code=code)


def write_failure(folder: Path, reason: str, is_mistake: bool) -> None:
    """Say that the run failed; ``is_mistake``: by what a person or a machine refuses, no bug."""
    _running.discard(folder.resolve())
    code = MISTAKE if is_mistake else BUG
    StatusFile(folder).write(state=FAILED, reason=reason, seconds_left=None, exit_code=code)


def write_error(folder: Path, error: BaseException) -> None:
    """Say what ended the run: a signal, a mistake, or a bug."""
    if isinstance(error, signals.Stop):
        write_end(folder, error.signal.value)
    elif isinstance(error, KeyboardInterrupt):
        write_end(folder, signal.SIGINT.value)
    else:
        write_failure(folder, *explain(error, folder))


def explain(error: BaseException, folder: Path) -> tuple[str, bool]:
    """Return in one line why ``error`` ended the run in ``folder``, and whether it is no bug."""
    if isinstance(error, UserError):
        return " ".join(str(error).split()), True
    if (refusal := disk.refusal(error, str(folder))) is not None:
        return refusal, True
    if (task := out_of_memory(error)) is not None:
        return f"out of memory: {task}", True
    if isinstance(error, SystemExit):
        return f"another process of the run ended with exit code {error.code}", False
    return f"{type(error).__name__}: {first_line(error)}", False


_running: set[Path] = set()  # the runs of this process


def _write_killed() -> None:
    """Say which signal ends this process in the middle of a run."""
    received = signals.received()
    if received is not None:
        for folder in list(_running):
            write_end(folder, received.value)
