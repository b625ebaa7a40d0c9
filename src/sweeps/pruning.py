"""A job of an Optuna sweep, and its trial in the study of the sweep."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from src.errors import first_line
from src.sweeps.study import FOLDER, UNREACHABLE, open_storage, optuna, trial_id

log = logging.getLogger(__name__)

SHARES = 10  # of a run, in each of which a job reports once


@dataclass(frozen=True)
class Rule:
    """When a job is pruned; see ``conf/sweep/optuna.yaml``."""

    startup_trials: int
    warmup_percent: float

    def pruner(self) -> "optuna.pruners.BasePruner":
        """Return Optuna's pruner of this rule."""
        return optuna.pruners.MedianPruner(
            n_startup_trials=self.startup_trials, n_warmup_steps=int(self.warmup_percent)
        )


class JobTrial:
    """The trial of this job.

    Trials are compared where they have seen the same share of their run, in percent: a batch size
    changes how many steps that is. A job reports at its first validation in each tenth of its run.

    Args:
        storage: where the study is.
        study_name: its name there.
        number: of the trial.
        rule: when the job is pruned; None: never.
    """

    def __init__(self, storage: Any, study_name: str, number: int, rule: Rule | None):
        pruner = optuna.pruners.NopPruner() if rule is None else rule.pruner()
        study = optuna.load_study(study_name, storage, pruner=pruner)
        self.storage = storage
        self.id = trial_id(storage, study_name, number)
        self.trial = optuna.trial.Trial(study, self.id)
        self.is_reachable = True
        self.asked: set[int] = set()  # where the job has asked whether to go on, in percent

    @classmethod
    def of_job(cls, hydra: DictConfig, folder: Path) -> "JobTrial | None":
        """Return the trial of the job in ``folder``, which the study then knows; None: no trial.

        Args:
            hydra: Hydra's part of the job's config.
            folder: of the job, in the sweep folder.
        """
        sweeper = hydra.sweeper
        if sweeper.get("trial") is None:
            return None
        rule = sweeper.pruning and Rule(**sweeper.pruning)
        trial = cls(open_storage(sweeper.storage), sweeper.study_name, sweeper.trial, rule)
        trial.trial.set_user_attr(FOLDER, os.path.relpath(folder, hydra.sweep.dir))
        return trial

    def find_better(self, step: int, num_steps: int, value: float) -> str | None:
        """Report ``value`` after ``step`` of ``num_steps``; return why the job ends here, if so."""
        percent = 100 // SHARES * (SHARES * step // num_steps)
        try:
            before = dict(self.storage.get_trial(self.id).intermediate_values)
            if percent in self.asked:
                return None
            self.asked.add(percent)
            if percent not in before:  # else a kill came before the answer
                self.trial.report(value, percent)
            if step >= num_steps or not self.trial.should_prune():
                return None
            best = min((value, *before.values()))
            return f"{best:.4g} is above the median of the others at {percent}% of the run"
        except UNREACHABLE as error:
            if self.is_reachable:
                log.warning(
                    "warning: the study of this sweep cannot be reached; the job goes on: %s",
                    first_line(error),
                )
            self.is_reachable = False
            return None
