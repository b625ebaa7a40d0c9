"""Where the figures of a run go: TensorBoard and ``history.csv`` always, others beside them."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.tensorboard.summary import custom_scalars

from src.data.datamodule import ChatDataModule
from src.training import hparams
from src.training.checkpoints import saved_step
from src.training.curves import HISTORY
from src.training.events import SIZES, OneFileLogger, open_logger
from src.training.history import History
from src.training.layout import layout
from src.training.shown import Board, histogram
from src.training.wandb_logger import RunWandbLogger


class Loggers:
    """All loggers of one run; whoever owns the run closes them.

    Args:
        run_folder: where their files go.
        checkpoint: from which the run goes on; None: it begins.
        totals: as in ``History``.
        rank: of this process; rank 0 writes.
        others: beside TensorBoard and the history.
    """

    def __init__(
        self,
        run_folder: Path,
        checkpoint: Path | None,
        totals: Callable[[], tuple[int, float]],
        rank: int,
        others: Sequence[RunWandbLogger] = (),
    ):
        step = None if checkpoint is None else saved_step(checkpoint)
        self.tensorboard = open_logger(run_folder, checkpoint, rank)
        self.history = History(run_folder / HISTORY, totals, step, rank)
        self.others = list(others)

    @property
    def all(self) -> list[Logger]:
        """All of them, TensorBoard's first, as Lightning takes them."""
        return [self.tensorboard, self.history, *self.others]

    def close(self) -> None:
        """Write what is left, and end, even if one of them cannot."""
        try:
            self.history.close()
            for logger in self.others:
                logger.close()
        finally:
            self.tensorboard.close()

    @rank_zero_only
    def describe(
        self,
        row: hparams.Row,
        data: ChatDataModule,
        figures: Sequence[str],
        compared: Sequence[str],
    ) -> None:
        """Write what is known of a run before its first step.

        Args:
            row: its settings.
            data: what it learns from.
            figures: of training and validation, by their names after the slash.
            compared: the tags of the figures by which runs are compared.
        """
        for summary in hparams.start_summaries(row, compared):
            self.tensorboard.write(summary)
        sources = list(data.by_source("validation"))
        self.tensorboard.write(custom_scalars(_as_torch(layout(figures, sources))))
        columns, rows = config_table(row)
        for board in self.all:
            if isinstance(board, Board):
                board.log_table("settings", columns, rows, step=0)
                for key, values in shape_of_rows(data).items():
                    board.log_histogram(f"train_rows/{key}", histogram(values), 0)

    def end(self) -> None:
        """Write that the run has come to its end."""
        self.tensorboard.write(hparams.end_summary())


def config_table(row: hparams.Row) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows of all settings; first those that differ from their defaults."""
    differing = row.differing
    keys = dict.fromkeys([*differing, *row.settings])
    rows = [
        [key, _text(row.settings[key]), _text(row.default(key)) if key in differing else ""]
        for key in keys
    ]
    return ["setting", "value", "instead of the default"], rows


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def shape_of_rows(data: ChatDataModule) -> dict[str, np.ndarray]:
    """Return the lengths of the training examples, and how full the blocks are."""
    train = data.splits["train"]
    return {
        "tokens_per_example": train.lengths,
        "targets_per_example": train.targets_per_document,
        "filled_share_of_blocks": train.tokens_per_block / train.block_size,
    }


def flush(loggers: Sequence[Logger]) -> dict[str, Any]:
    """Bring to the disk what has been logged; return what a checkpoint keeps of it."""
    kept: dict[str, Any] = {}
    for logger in loggers:
        if isinstance(logger, OneFileLogger):
            kept[SIZES] = logger.sizes()
        elif isinstance(logger, History):
            logger.flush()
    return kept


def _as_torch(groups: dict[str, dict[str, list[str]]]) -> dict[str, dict[str, list[Any]]]:
    return {
        group: {title: ["Multiline", tags] for title, tags in charts.items()}
        for group, charts in groups.items()
    }
