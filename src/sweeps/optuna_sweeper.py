"""A sweep that searches: Optuna proposes, a job trains, the study keeps what came of it.

The study is the record. Whoever goes on with a sweep goes on with its trials: those that have ended
count, and those that a kill cut off are launched again, with the same values in the same folders.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.plugins.launcher import Launcher
from hydra.utils import instantiate
from hydra_plugins.hydra_optuna_sweeper._impl import create_optuna_distribution_from_override
from omegaconf import DictConfig, OmegaConf

from src import signals
from src.errors import UserError, first_line
from src.sweeps.launchers import side_by_side
from src.sweeps.optuna_record import check_overrides, is_in
from src.sweeps.state import is_inside
from src.sweeps.study import (
    BY,
    FOLDER,
    OVERRIDES,
    REASON,
    open_storage,
    optuna,
    study_name,
    trial_id,
)
from src.training.pruning import PRUNED
from src.training.status import FAILED, FINISHED, Status, read_status, write_failure
from src.wording.command_line import grammatical, quoted

Space = dict[str, "optuna.distributions.BaseDistribution"]


@dataclass(frozen=True)
class Job:
    """A trial and the overrides of its job."""

    number: int
    overrides: Sequence[str]


class StudySweep:
    """One sweep that a study guides.

    Args:
        config: of the sweep; its ``hydra.sweeper`` has the keys of ``conf/sweep/optuna.yaml``.
        launcher: starts jobs.
        arguments: the overrides of the sweep.

    Raises:
        UserError: nothing is searched, a range cannot be used, or the study not opened.
    """

    def __init__(self, config: DictConfig, launcher: Launcher, arguments: Sequence[str]):
        self.settings = config.hydra.sweeper
        self.space, self.fixed = search_space(self.settings.params or {}, arguments)
        self.launcher = launcher
        self.num_side_by_side = side_by_side(config.hydra) or 1
        self.folder = Path(config.hydra.sweep.dir)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.url = str(self.settings.storage)
        self.storage = open_storage(self.url)
        self.has_own_file = is_in(self.url, self.folder)
        self.name = study_name(self.storage, self.url, self.settings.study_name, self.folder)
        self.study = self._open()

    def run(self) -> None:
        """Launch jobs until the study has ``n_trials``.

        Raises:
            UserError: the study holds other choices.
        """
        unfinished = self._unfinished()
        while jobs := unfinished[: self.num_side_by_side] or self._ask():
            unfinished = unfinished[len(jobs) :]
            self._launch(jobs)
        self._write_results()

    def _open(self) -> "optuna.study.Study":
        """Return the study as it is now: one that is open does not see what jobs write into it."""
        return optuna.create_study(
            study_name=self.name, storage=self.storage, direction="minimize", load_if_exists=True
        )

    def _trials(self) -> "list[optuna.trial.FrozenTrial]":
        return list(self.study.get_trials(deepcopy=False))

    def _unfinished(self) -> list[Job]:
        """Return the jobs of this sweep that did not come to their end, and tell of those that did.

        A kill may come between the end of a job and what the study is told of it.
        """
        jobs = []
        for trial in self._trials():
            attributes = trial.user_attrs
            if trial.state != optuna.trial.TrialState.RUNNING:
                continue
            if not self.has_own_file and attributes.get(BY) != self.folder.name:
                continue  # another sweep may be at it
            if OVERRIDES not in attributes:
                jobs.append(self._propose(trial.number))
            elif not self._tell(trial.number):
                check_overrides(attributes[OVERRIDES], Path(self.url))
                jobs.append(Job(trial.number, attributes[OVERRIDES]))
        return jobs

    def _ask(self) -> list[Job]:
        """Return the jobs of new trials, as many as run side by side and are to be in all."""
        waiting = optuna.trial.TrialState.WAITING  # enqueued by hand
        num_begun = sum(trial.state != waiting for trial in self._trials())
        number = min(self.num_side_by_side, self.settings.n_trials - num_begun)
        return [self._propose(self.study.ask().number) for _ in range(number)]

    def _propose(self, number: int) -> Job:
        """Return the job of a trial that has just been asked for."""
        self.study.sampler = self._sampler(number)
        trial = optuna.trial.Trial(self.study, trial_id(self.storage, self.name, number))
        try:
            for name, distribution in self.space.items():
                trial._suggest(name, distribution)  # as Hydra's own Optuna sweeper does
        except ValueError as error:
            raise UserError(
                f"the study {self.name} was begun with other choices ({first_line(error)}): "
                f"keep them, or begin another with hydra.sweeper.study_name=..."
            ) from error
        values = [f"{name}={as_text(value)}" for name, value in trial.params.items()]
        job = Job(number, [*self.fixed, *values])
        trial.set_user_attr(BY, self.folder.name)
        trial.set_user_attr(OVERRIDES, job.overrides)
        return job

    def _sampler(self, number: int) -> Any:
        """Return the sampler of one trial, its seed by the trial's number.

        So a sweep that was gone on with draws what an uninterrupted one would have drawn.
        """
        node = self.settings.sampler
        if node.get("_partial_"):
            raise UserError(
                "hydra/sweeper/sampler=grid: leave out sweep=optuna and list the values, as "
                "-m batch_size=8,16"
            )
        changes = {} if node.get("seed") is None else {"seed": node.seed + number}
        return instantiate(node, **changes)

    def _launch(self, jobs: Sequence[Job]) -> None:
        problem = "its process ended before it did"
        try:
            self.launcher.launch([self._overrides(job) for job in jobs], jobs[0].number)
        except Exception as error:  # the launcher's own: a job that fails returns
            problem = first_line(error)
            self.study = self._open()
            if not any(self._status(job.number) for job in jobs):
                raise
        received = signals.received()
        if received is not None:  # the jobs stay to be gone on with
            sys.exit(128 + received)
        self.study = self._open()
        for job in jobs:
            folder = self._folder(job.number)
            if folder is None or self._tell(job.number):
                continue  # one that did not begin stays to be gone on with
            write_failure(folder, problem, is_mistake=False)
            self._tell(job.number)

    def _overrides(self, job: Job) -> list[str]:
        """Return the overrides of a job; one that has a folder goes on there."""
        known = [
            f"hydra.sweeper.trial={job.number}",
            f"hydra.sweeper.study_name={quoted(self.name)}",
        ]
        folder = self._folder(job.number)
        if folder is not None and folder.is_dir():
            known += [
                f"resume={grammatical(folder)}",
                f"hydra.sweep.subdir={grammatical(folder.relative_to(self.folder))}",
                "hydra.output_subdir=null",
            ]
        return [*job.overrides, *known]

    def _status(self, number: int) -> Status | None:
        """Return how far the job of a trial is; None: it has not begun."""
        folder = self._folder(number)
        return None if folder is None else read_status(folder)

    def _folder(self, number: int) -> Path | None:
        """Return the folder of the job of a trial; None: it has not begun."""
        name = self._trials()[number].user_attrs.get(FOLDER)
        return self.folder / name if isinstance(name, str) and is_inside(name) else None

    def _tell(self, number: int) -> bool:
        """Tell the study how the job of a trial ended; return False if it did not."""
        status = self._status(number)
        if status is None or status.state not in (FINISHED, FAILED):
            return False
        reason = status.reason or ""
        if status.state == FAILED:
            self._fail(number, reason)
        elif reason.startswith(PRUNED):
            self.study.tell(number, state=optuna.trial.TrialState.PRUNED)
        elif status.best_val_loss is None:
            self._fail(number, "it has no best_val/loss: there are no validation rows")
        else:
            self.study.tell(number, status.best_val_loss)
        return True

    def _fail(self, number: int, reason: str) -> None:
        id_ = trial_id(self.storage, self.name, number)
        self.storage.set_trial_user_attr(id_, REASON, reason)
        self.study.tell(number, state=optuna.trial.TrialState.FAIL)

    def _write_results(self) -> None:
        """Write the best trial, as Hydra's own Optuna sweeper does."""
        complete = optuna.trial.TrialState.COMPLETE
        if any(trial.state == complete for trial in self._trials()):
            best = self.study.best_trial
            result = {"name": "optuna", "best_params": best.params, "best_value": best.value}
            OmegaConf.save(OmegaConf.create(result), self.folder / "optimization_results.yaml")


def search_space(params: Mapping[str, str], arguments: Sequence[str]) -> tuple[Space, list[str]]:
    """Return what is searched, and the other overrides as they were typed.

    Args:
        params: key -> range, of the preset.
        arguments: the command line, which wins.

    Raises:
        UserError: nothing is searched, or a range cannot be used.
    """
    typed = [*(f"{key}={value}" for key, value in params.items()), *arguments]
    by_key: dict[str, Override] = {}
    for override in OverridesParser.create().parse_overrides(typed):
        key = override.get_key_element().lstrip("+~")
        by_key.pop(key, None)
        by_key[key] = override
    space = {
        o.get_key_element(): _distribution(o) for o in by_key.values() if o.is_sweep_override()
    }
    if not space:
        raise UserError(
            "sweep=optuna: nothing is searched: name a range, as "
            "'optimizer.learning_rate=tag(log, interval(1e-5, 1e-3))'"
        )
    return space, [_plain(o) for o in by_key.values() if not o.is_sweep_override()]


def _plain(override: Override) -> str:
    """Return an override as ``sweep.json`` has it among those that all jobs share."""
    if override.is_delete():
        return str(override.input_line)
    return f"{override.get_key_element()}={override.get_value_element_as_str()}"


def _distribution(override: Override) -> "optuna.distributions.BaseDistribution":
    try:
        return create_optuna_distribution_from_override(override)
    except (ValueError, AssertionError) as error:
        raise UserError(f"{override.input_line}: {first_line(error)}") from error


def as_text(value: Any) -> str:
    """Return a value that Optuna proposes as Hydra's grammar reads it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
