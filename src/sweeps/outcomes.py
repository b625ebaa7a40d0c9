"""What became of each run of a sweep, as its folder tells: of any launcher, at any time."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from src.errors import UserError
from src.files.json_file import is_number
from src.sweeps.names import rounded
from src.sweeps.optuna_record import OPTUNA
from src.sweeps.state import JOB, SWEEP, Sweep, is_sweep, read_job, read_sweep
from src.training.record import RECORD, Values, read_object, read_record
from src.training.status import FAILED, FINISHED, KILLED, STATUS, read_status

METRICS = "metrics.json"
PRUNED = "pruned"  # how the reason of a run begins that was behind the others of its search
WAITING = "waiting"  # no process has begun it
LOSS, ACCURACY = "best_val/loss", "best_val/accuracy"
ENDED = (FINISHED, FAILED)  # states that going on does not change, unless it is asked to


@dataclass(frozen=True)
class Outcome:
    """One run.

    Attributes:
        folder: its name, in the sweep's folder.
        values: what was swept.
        state: ``waiting``, ``running``, ``finished``, ``stopped``, ``failed`` or ``killed``.
        reason: why it failed, or what stopped it.
        step: optimizer steps that are done, of ``num_steps``.
        val_loss: of the last validation.
        best_val_loss: of the weights that it keeps.
        seconds_left: while it runs.
        exit_code: as in its status.
        updated: when its status was written.
        figures: of ``metrics.json``, if it is finished.
    """

    folder: str
    values: Values
    state: str = WAITING
    reason: str | None = None
    step: int = 0
    num_steps: int = 0
    val_loss: float | None = None
    best_val_loss: float | None = None
    seconds_left: float | None = None
    exit_code: int | None = None
    updated: str = ""
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def loss(self) -> float | None:
        """The best validation loss, the figure by which runs are ranked."""
        return self.figures.get(LOSS, self.best_val_loss)

    @property
    def is_ranked(self) -> bool:
        """Whether it may be compared: it is finished, and was validated."""
        return self.state == FINISHED and self.loss is not None

    @property
    def ending(self) -> str:
        """The state as people read it: ``pruned`` where a search has ended the run early."""
        is_pruned = self.state == FINISHED and (self.reason or "").startswith(PRUNED)
        return PRUNED if is_pruned else self.state


@dataclass(frozen=True)
class Results:
    """What became of a sweep; ``num_jobs`` counts those that nobody knows yet, too."""

    folder: Path
    sweep: Sweep
    outcomes: tuple[Outcome, ...]
    keys: tuple[str, ...]  # what was swept, by dotted key

    @property
    def num_jobs(self) -> int:
        """How many runs there are, or will be."""
        return max(self.sweep.num_jobs or 0, len(self.outcomes))

    @property
    def num_remaining(self) -> int:
        """How many runs have not come to an end."""
        return self.num_jobs - self.count(*ENDED)

    def count(self, *states: str) -> int:
        """Return how many runs are in one of these states."""
        return sum(outcome.state in states for outcome in self.outcomes)

    def count_endings(self, ending: str) -> int:
        """Return how many runs came to this end, as people read it."""
        return sum(outcome.ending == ending for outcome in self.outcomes)

    def shown(self, value: Any) -> Any:
        """Return a value that was swept, as people want to read it."""
        return rounded(value) if self.sweep.kind == OPTUNA else value


def open_sweep(folder: Path) -> Results:
    """Return what became of the sweep in ``folder``.

    Raises:
        UserError: it is no sweep, or holds no runs; says what it is.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder")
    if not is_sweep(folder):
        raise UserError(f"{folder} is no sweep: {_what_it_is(folder)}")
    if not (folder / SWEEP).exists():
        return read_results(folder, Sweep(kind="unknown"))
    return read_results(folder, read_sweep(folder))


def _what_it_is(folder: Path) -> str:
    if any((folder / name).is_file() for name in (RECORD, METRICS, STATUS)):
        return "it is one run"
    if not any(folder.iterdir()):
        return "it is empty"
    inner = sorted(path.parent for path in folder.glob(f"*/{SWEEP}"))
    return f"there is no {SWEEP} in it" + (f"; try {inner[-1]}" if inner else "")


def read_results(folder: Path, sweep: Sweep) -> Results:
    """Return what became of ``sweep`` in ``folder``.

    Raises:
        UserError: there are no runs.
    """
    if sweep.jobs:
        runs = [read_outcome(folder, job.folder, job.values) for job in sweep.jobs]
        keys = tuple(sweep.jobs[0].values)
    else:
        names = sorted({path.parent.name for path in _unlisted(folder)}, key=_natural)
        runs = [read_outcome(folder, name, _values(folder / name)) for name in names]
        keys = _differing(runs)
        runs = [replace(run, values={k: run.values.get(k) for k in keys}) for run in runs]
        if not runs and sweep.num_jobs is None:
            raise UserError(f"{folder} holds no runs")
    return Results(folder, sweep, tuple(runs), keys)


def _unlisted(folder: Path) -> list[Path]:
    return [p for name in (RECORD, STATUS, JOB, METRICS) for p in folder.glob(f"*/{name}")]


def _natural(name: str) -> tuple[int, str]:
    number = name.partition("_")[0]
    return (int(number) if number.isdecimal() else 0, name)


def _values(folder: Path) -> Values:
    """Return what a run of its own was started with: for people, and to be compared."""
    values = read_job(folder)
    if values is not None:
        return values
    try:
        record = read_record(folder)
    except UserError:
        return {}
    typed = {o.partition("=")[0].lstrip("+"): o.partition("=")[2] for o in record.overrides}
    return {key: record.settings.get(key, text) for key, text in typed.items()}


def _differing(runs: list[Outcome]) -> tuple[str, ...]:
    known = [run.values for run in runs if run.values]
    keys = dict.fromkeys(key for values in known for key in values)
    return tuple(k for k in keys if any(v.get(k) != known[0].get(k) for v in known))


def read_outcome(folder: Path, name: str, values: Values) -> Outcome:
    """Return what became of the run in ``folder / name``."""
    found = read_status(folder / name)
    outcome = Outcome(name, values)
    if found is not None:
        copied = ("state", "reason", "step", "num_steps", "val_loss", "best_val_loss")
        rest = ("seconds_left", "exit_code", "updated")
        outcome = replace(outcome, **{key: getattr(found, key) for key in (*copied, *rest)})
    elif (folder / name / RECORD).is_file():
        outcome = replace(outcome, state=KILLED)
    if outcome.state != FINISHED:
        return outcome
    try:
        figures = read_object(folder / name / METRICS)
    except UserError as error:
        return replace(outcome, state=FAILED, reason=str(error), exit_code=1)
    numbers = {k: float(v) for k, v in figures.items() if is_number(v)}
    if "real_tokens_per_second" in numbers and "train_seconds" in numbers:  # of an older version
        tokens = numbers["real_tokens_per_second"] * numbers["train_seconds"]
        numbers.setdefault("num_tokens", float(round(tokens)))
    return replace(outcome, figures=numbers)


def sorted_by_loss(outcomes: tuple[Outcome, ...]) -> list[Outcome]:
    """Return the ranked ones, the best first; then those with a loss; then the others."""

    def place(outcome: Outcome) -> tuple[Any, ...]:
        order = 0 if outcome.is_ranked else 2 if outcome.state == FAILED else 1
        loss = outcome.loss
        return order, loss is None, loss or 0.0

    return sorted(outcomes, key=place)
