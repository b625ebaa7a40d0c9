"""What a run wants to know of what is learned: ``Run`` knows no loss and no kind of data.

A new objective is one file in ``src/objectives`` that fulfils ``Objective``, one config in
``conf/objective``, and its line in ``src/objectives/__init__.py``.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import lightning as L

from src.data.blocks import Blocks
from src.data.datamodule import ChatDataModule
from src.data.order import Batching
from src.data.source import Reader, Source
from src.data.tokenizer import Tokenizer
from src.model.gpt2 import GPT2
from src.training.config import ObjectiveConfig, TrainConfig
from src.training.memory import TrainingStep
from src.training.module import TrainingModule
from src.training.purpose import Purpose


@dataclass(frozen=True)
class Best:
    """The validation figure that decides which weights a run keeps."""

    figure: str
    lower_is_better: bool = True

    def improves(self, value: float, best: float | None) -> bool:
        """Whether ``value`` is better than the ``best`` so far; anything is better than NaN."""
        if best is None or math.isnan(best):
            return True
        return value < best if self.lower_is_better else value > best


class Objective(Protocol):
    """What is learned in one run.

    Config: the values of its file in ``conf/objective``.
    reader: what a row is read as.
    best: the figure that chooses the weights, as ``val/loss``.
    bar: what the progress bar shows: label -> figure and how it is written.
    purpose: what it makes of a model, in words.
    table: the figures by which TensorBoard's table of runs compares, by their tags.
    """

    Config: ClassVar[type[ObjectiveConfig]]
    reader: ClassVar[Reader]
    best: ClassVar[Best]
    bar: ClassVar[Mapping[str, tuple[str, str]]]
    purpose: ClassVar[Purpose]
    table: ClassVar[Sequence[str]]

    def __init__(self, config: TrainConfig): ...

    def step(self, step: TrainingStep) -> TrainingStep:
        """Return the step for the memory estimate, with what this objective adds to it."""
        ...

    def learner(self, model: GPT2) -> GPT2:
        """Return what learns, made of the language model of ``conf/model``."""
        ...

    def data(
        self,
        tokenizer: Tokenizer,
        source: Source,
        *,
        block_size: int,
        max_length: int,
        batching: Batching,
    ) -> ChatDataModule:
        """Return the data module; examples have at most ``max_length`` tokens."""
        ...

    def module(self, model: GPT2, num_steps: int) -> TrainingModule:
        """Return the module whose ``model`` learns."""
        ...

    def describe_targets(self, blocks: Blocks) -> str:
        """Return how much of the rows is taught, in words, for the report before a run."""
        ...

    def watchers(self, data: ChatDataModule, folder: Path) -> list[L.Callback]:
        """Return the callbacks of a run in ``folder`` that only this objective needs."""
        ...

    def before_training(self, model: GPT2) -> None:
        """Look at the model before the first step of a new run; on rank 0 only."""
        ...

    def without_validation(self, trainer: L.Trainer, module: TrainingModule) -> None:
        """Look at the model instead of a validation, when there are no rows for one."""
        ...

    def save(self, model: GPT2, folder: Path, tokenizer: Tokenizer) -> None:
        """Write ``model``, a plain one, into ``folder``: the result of the run; on rank 0 only."""
        ...

    def load(self, folder: Path) -> GPT2:
        """Return what ``save`` has written."""
        ...

    def final_figures(self, best: GPT2) -> dict[str, float]:
        """Return the figures of the best weights at the end of a run; on rank 0 only."""
        ...

    def summary_lines(self, figures: Mapping[str, float]) -> list[str]:
        """Return the lines in which the summary tells how it went; may show a table first."""
        ...

    def use(self, folder: Path) -> list[str]:
        """Return the lines in which the summary tells how the result in ``folder`` is used."""
        ...
