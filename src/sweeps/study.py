"""The Optuna study of a sweep: its storage, its trials, and what is searched."""

import warnings
from pathlib import Path
from typing import Any

from src.errors import UserError
from src.sweeps.optuna_record import SQLITE, is_in, sqlite_file

with warnings.catch_warnings():
    # Optuna 2 uses what SQLAlchemy 1.4 keeps and 2.0 has not; both are pinned.
    warnings.filterwarnings("ignore", "Deprecated API features detected")
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

from optuna.exceptions import StorageInternalError

UNREACHABLE = (SQLAlchemyError, StorageInternalError)  # what a storage that is gone raises
SECONDS_FOR_A_LOCK = 60  # several jobs write into one file; sqlite's own 5 are few on a busy disk
FOLDER = "folder"  # user attribute of a trial: of its job, in the sweep folder
BY = "sweep"  # the sweep that asked for it
OVERRIDES = "overrides"  # of its job
REASON = "reason"  # why it was pruned, or failed

optuna.logging.set_verbosity(optuna.logging.WARNING)


def open_storage(url: str) -> Any:
    """Return Optuna's storage at ``url``, without a memory of what it has read.

    Raises:
        UserError: there is none that this version of Optuna can use.
    """
    file = sqlite_file(url)
    try:
        if file is None:
            return optuna.storages.get_storage(url)
        file.parent.mkdir(parents=True, exist_ok=True)
        arguments = {"connect_args": {"timeout": SECONDS_FOR_A_LOCK}}
        return optuna.storages.RDBStorage(url, arguments)
    except (*UNREACHABLE, ImportError, OSError, RuntimeError, ValueError, AssertionError) as error:
        message = " ".join(str(error).split()) or "it holds something else"
        raise UserError(
            f"hydra.sweeper.storage={url}: {message}; Optuna {optuna.__version__} wants a URL as "
            f"{SQLITE}study.db, and a file that it has made"
        ) from error


def study_name(storage: Any, url: str, name: str | None, sweep: Path) -> str:
    """Return the name of a sweep's study: ``name``, or else the sweep folder's.

    A study in the sweep folder is found again when the folder has another name.
    """
    if name is not None:
        return name
    if is_in(url, sweep):
        for summary in optuna.get_all_study_summaries(storage):
            return str(summary.study_name)
    return sweep.name


def trial_id(storage: Any, name: str, number: int) -> int:
    """Return the storage's id of a trial, by the study's name and the trial's number there."""
    study_id = storage.get_study_id_from_name(name)
    return int(storage.get_trial_id_from_study_id_trial_number(study_id, number))
