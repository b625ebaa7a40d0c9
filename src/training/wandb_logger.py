"""Weights & Biases beside TensorBoard, through Lightning's own logger: ``logger=wandb``.

wandb reads its own settings from the environment: ``WANDB_MODE=offline``, ``WANDB_PROJECT``.
"""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from src.errors import UserError
from src.training.record import RECORD, read_object
from src.training.shown import Histogram

PROJECT = "gpt2-chat"  # unless WANDB_PROJECT names another
WANDB = "wandb"  # of logger=
MOST_BARS = 512  # of a histogram, which wandb takes


class RunWandbLogger(WandbLogger):
    """Shows histograms too."""

    @rank_zero_only
    def log_histogram(self, key: str, histogram: Histogram, step: int) -> None:
        """Show a histogram."""
        import wandb

        bars = histogram.heights[:MOST_BARS].tolist(), histogram.edges[: MOST_BARS + 1].tolist()
        self.log_metrics({key: wandb.Histogram(np_histogram=bars)}, step)  # type: ignore[dict-item]

    @rank_zero_only
    def close(self) -> None:
        """Send what is left, and end."""
        if self._experiment is not None:
            self._experiment.finish()


def open_wandb(run_folder: Path, settings: dict[str, Any]) -> RunWandbLogger:
    """Return the logger of a run; one that goes on is the same run at Weights & Biases, too.

    Raises:
        UserError: wandb is not installed.
    """
    check_logger(WANDB)
    folder = run_folder.resolve()
    is_job = (folder.parent / "multirun.yaml").exists()
    logger = RunWandbLogger(
        name=f"{folder.parent.name}/{folder.name}" if is_job else folder.name,
        group=folder.parent.name if is_job else None,
        save_dir=run_folder,
        id=_identity(folder),
        project=os.environ.get("WANDB_PROJECT", PROJECT),
    )
    logger.log_hyperparams(settings)
    return logger


def check_logger(name: str) -> None:
    """Check that what ``logger=<name>`` needs is installed.

    Raises:
        UserError: it is not.
    """
    if name != WANDB:
        return
    try:
        import wandb  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "wandb":
            raise
        raise UserError(
            "logger=wandb needs the wandb library: pip install 'gpt2-chat[wandb]'"
        ) from error


def _identity(folder: Path) -> str:
    """Return a name that this run keeps when it goes on, and no other run has."""
    record = read_object(folder / RECORD)
    first = {key: record[key] for key in record if key not in ("starts", "end")}  # never changed
    text = json.dumps(first, sort_keys=True)
    name = re.sub(r"[^\w-]", "-", folder.name, flags=re.ASCII)[:48]
    return f"{name}-{hashlib.sha256(bytes(folder) + text.encode()).hexdigest()[:8]}"
