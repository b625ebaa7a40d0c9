"""One run to look at: its figures, curves, rows and model, each read when it is asked for."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from src.data.datamodule import ChatDataModule, open_data
from src.data.order import Batching
from src.data.sources import open_source
from src.data.tokenizer import load_tokenizer
from src.errors import UserError
from src.files.json_file import read_settings
from src.model.pretrained import num_positions
from src.records.runs import METRICS
from src.talk.chat_model import ChatModel
from src.training.config import TrainConfig
from src.training.curves import Curve, read_curves
from src.training.objective import Objective
from src.training.record import RESULTS, read_record
from src.training.status import Status, read_status

MODEL = "model"  # in a run folder


class OpenRun:
    """A run folder.

    Args:
        folder: of the run.
        config: its settings, those of today where it has none.
        objective: what it learned.
        load: returns the model of a folder.
    """

    def __init__(
        self,
        folder: Path,
        config: TrainConfig,
        objective: Callable[[TrainConfig], Objective],
        load: Callable[[Path], ChatModel],
    ):
        self.folder = folder
        self.config = config
        self._objective = objective
        self._load = load

    def __repr__(self) -> str:
        state = self.status.state if self.status else "without a status"
        return f"<{self.folder}: {state}>"

    @property
    def status(self) -> Status | None:
        """How far the run is, or how it ended."""
        return read_status(self.folder)

    @property
    def metrics(self) -> dict[str, Any]:
        """The figures of the run; none while it is not finished."""
        return read_settings(self.folder / METRICS)

    @property
    def settings(self) -> dict[str, Any]:
        """All settings under dotted names, those that were open as they were decided."""
        return read_record(self.folder).settings

    @property
    def curves(self) -> dict[str, Curve]:
        """Each logged figure by its name, until now."""
        return read_curves(self.folder)

    @cached_property
    def data(self) -> ChatDataModule:
        """The rows as the run sees them: ``data.splits["train"]`` are its packed blocks.

        Raises:
            UserError: the rows are not there any more.
        """
        config = self.config
        objective = self._objective(config)
        if (self.folder / MODEL).is_dir():
            tokenizer = load_tokenizer(str(self.folder / MODEL))
            source = open_source(config.data)
        else:
            source, tokenizer = open_data(
                config.data, config.model.tokenizer, config.model.vocab_size, objective.reader
            )
        positions = num_positions(config.model)
        data = objective.data(
            tokenizer,
            source,
            block_size=self.settings.get("data.block_size") or positions,
            max_length=positions,
            batching=Batching.of(config.batch_size, 1, 1),
        )
        data.setup()
        return data

    @cached_property
    def model(self) -> ChatModel:
        """The best weights so far: ``model.reply("Who are you?")``.

        Raises:
            UserError: the run has not written any yet.
        """
        if others := [name for name in RESULTS if (self.folder / name).is_dir() and name != MODEL]:
            raise UserError(f"{self.folder / others[0]} gives numbers, and no replies")
        if not (self.folder / MODEL).is_dir():
            raise UserError(f"{self.folder}: no model in it yet: it comes with the validation")
        return self._load(self.folder / MODEL)
