"""Steps one after another in one folder; what is complete is passed over, so it goes on anywhere.

outputs/rlhf/NAME/
  rlhf.json       what it is
  1_sft/ ...      a run folder, as of src.train
  2_rank/         train.jsonl, validation.jsonl, test.jsonl: rankings, as of src.rank
  metrics.json    flat figures of all steps
  results.json    the same with their intervals, and the replies to some questions
  rlhf.png        what each step gained
"""

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import torch

from src.checks import AUTO
from src.files.json_file import is_number, read_settings
from src.model.device import choose_device
from src.rlhf.config import RANK, RLHFConfig
from src.rlhf.record import Record
from src.rlhf.steps import SPLITS, TITLES, Places, accelerator, rank_arguments, run_arguments
from src.shared_cores import shared_cores
from src.streams import say
from src.training.record import RECORD as RUN
from src.training.record import is_finished

EVALUATION = "evaluation"

Train = Callable[[Path, list[str]], int | None]
Rank = Callable[[list[str]], None]


class Pipeline:
    """The steps of one folder.

    Args:
        folder: of the pipeline.
        config: the values of all steps.
        record: what is known of it.
    """

    def __init__(self, folder: Path, config: RLHFConfig, record: Record):
        self.folder, self.config, self.record = folder, config, record
        self.places = Places(folder, config.steps)

    def run(self, train: Train, rank: Rank) -> int | None:
        """Do what is left of the steps; return the number of a signal that stopped one, or None.

        Args:
            train: trains in a folder by a command line, or goes on there.
            rank: has replies ranked by a command line, or goes on with it.
        """
        for number, step in enumerate(self.config.steps, 1):
            if self.is_done(step):
                continue
            total = len(self.config.steps)
            say(f"\nstep {number} of {total}: {TITLES[step]} ({self.places[step]})", sys.stderr)
            if step == RANK:
                self._rank(rank)
                continue
            stopped_by = train(self.places[step], self._arguments(step))
            if stopped_by is not None:
                return stopped_by
        return None

    def _arguments(self, step: str) -> list[str]:
        """Return the command line of a run; one that has begun goes on as it was."""
        if (self.places[step] / RUN).exists():
            return []
        return run_arguments(step, self.config, self.places, self.record.start)

    def is_done(self, step: str) -> bool:
        """Whether a step is complete."""
        if step == RANK:
            return RANK in self.record.seconds
        return is_finished(self.places[step])

    def _rank(self, rank: Rank) -> None:
        with self.timed(RANK), self.cores():
            for split in SPLITS:
                rank(rank_arguments(split, self.config, self.places))

    def cores(self) -> AbstractContextManager[None]:
        """Compute meanwhile with the threads of the runs; elsewhere each run sees to it."""
        trainer = self.config.run.get("trainer") or {}
        return shared_cores(trainer.get("threads", AUTO), self.device.type)

    @property
    def device(self) -> torch.device:
        """What computes."""
        return choose_device(accelerator(self.config), "run.trainer.accelerator")

    def timed(self, step: str) -> "Timer":
        """Return what writes down the seconds of a step that is no run, when it is complete."""
        return Timer(self, step)

    def seconds(self) -> dict[str, float]:
        """Return the seconds that each step took, of all processes that were at it."""
        found = {}
        for step in self.config.steps:
            if step == RANK:
                found[step] = self.record.seconds.get(RANK, 0.0)
                continue
            figures = read_settings(self.places[step] / "metrics.json")
            parts = [v for k, v in figures.items() if k.startswith("seconds/") and is_number(v)]
            found[step] = float(sum(parts))
        return found | {EVALUATION: self.record.seconds.get(EVALUATION, 0.0)}


class Timer:
    """The wall time of a part of a pipeline."""

    def __init__(self, pipeline: Pipeline, name: str):
        self.pipeline, self.name = pipeline, name

    def __enter__(self) -> None:
        self.began = time.perf_counter()

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            record = self.pipeline.record
            record.seconds[self.name] = time.perf_counter() - self.began
            record.write(self.pipeline.folder)
