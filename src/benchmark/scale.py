"""How cost grows: training by model, block and batch; preparation by rows.

Each point is a process of its own, so its peak memory is that of the point alone.
"""

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from src.benchmark import ours, prepare
from src.benchmark.rounds import Measured, measure
from src.benchmark.workers import Job, Variant
from src.data.conversation import Conversation
from src.data.sources import RowReport, Source
from src.errors import UserError

log = logging.getLogger(__name__)


@dataclass
class ScaleConfig:
    """The ``scale`` of ``conf/benchmark.yaml``; its comments say what each value means."""

    cpu_models: list[str]
    gpu_models: list[str]
    block_sizes: list[int]
    batch_sizes: list[int]
    num_rows: list[int]
    seconds: float
    max_step_seconds: float

    def __post_init__(self) -> None:
        """Check ranges; raise UserError naming the key."""
        for key in ("block_sizes", "batch_sizes", "num_rows"):
            if min(getattr(self, key), default=1) < 1:
                raise UserError(f"scale.{key}={getattr(self, key)}: each must be at least 1")
        if not 0 <= self.seconds < float("inf"):
            raise UserError(f"scale.seconds={self.seconds}: must be 0 or more, and finite")
        if not self.max_step_seconds >= 0:
            raise UserError(f"scale.max_step_seconds={self.max_step_seconds}: must be 0 or more")


def measure_training(name: str, job: Job, config: ScaleConfig) -> dict[str, Any]:
    """Return ``scale.train.<name>.<block>x<batch>.<figure>`` of each point that was measured.

    A point whose step would take longer than ``max_step_seconds`` at the speed of the point before
    it, or that the device's memory does not allow, is left out, with a warning.
    """
    figures: dict[str, Any] = {}
    speed: float | None = None
    for block_size in config.block_sizes:
        for batch_size in config.batch_sizes:
            point = f"{name}.{block_size}x{batch_size}"
            tokens = block_size * batch_size
            if speed is not None and tokens / speed > config.max_step_seconds:
                log.warning("warning: scale %s left out: a step takes too long", point)
                continue
            data = replace(job.config.data, block_size=block_size)
            own = replace(job, config=replace(job.config, data=data, batch_size=batch_size))
            variant = Variant(f"{name}_{block_size}x{batch_size}", ours.train)
            try:
                measured = _measure(variant, own, config)
            except UserError as error:  # the device has no memory for it
                log.warning("warning: scale %s left out: %s", point, error)
                continue
            if measured is None:
                continue
            speed = measured.per_second
            figures |= {
                f"scale.train.{point}.real_tokens_per_second": speed,
                f"scale.train.{point}.seconds_per_step": measured.seconds_per_lap,
                f"scale.train.{point}.peak_memory_bytes": measured.peak_memory_bytes,
            }
    return figures


def measure_preparation(job: Job, source: Source, config: ScaleConfig) -> dict[str, Any]:
    """Return ``scale.prepare.<rows>.<figure>``: the rows of ``source`` over and over, numbered."""
    figures: dict[str, Any] = {}
    job.folder.mkdir(parents=True, exist_ok=True)
    for num_rows in config.num_rows:
        path = job.folder / f"{num_rows}.jsonl"
        data = replace(job.config.data, path=str(path))
        own = replace(job, config=replace(job.config, data=data))
        variant = Variant(f"rows_{num_rows}", prepare.prepare_ours, num_warmup_laps=0)
        try:
            write_rows(path, source, num_rows)
            measured = _measure(variant, own, config)
        finally:
            path.unlink(missing_ok=True)
        if measured is not None:
            figures |= {
                f"scale.prepare.{num_rows}.rows_per_second": measured.per_second,
                f"scale.prepare.{num_rows}.peak_memory_bytes": measured.peak_memory_bytes,
            }
    return figures


def write_rows(path: Path, source: Source, num_rows: int) -> None:
    """Write ``num_rows`` rows; a number at the end makes each prompt another one."""
    first_turns = (turns[0] for turns in _endless_turns(source))
    with path.open("w") as file:
        for number, (prompt, response) in zip(range(num_rows), first_turns, strict=False):
            row = {"prompt": f"{prompt} ({number})", "response": response}
            file.write(json.dumps(row) + "\n")


def _endless_turns(source: Source) -> Iterator[Any]:
    conversations: list[Conversation] = [c for _, c in source.conversations(RowReport())]
    return (conversation.turns for conversation in cycle(conversations))


def _measure(variant: Variant, job: Job, config: ScaleConfig) -> Measured | None:
    measured = measure(
        "scale", [variant], job, num_rounds=1, seconds=config.seconds, keep_alive=False
    )
    return measured.get(variant.name)


def show_scale(figures: dict[str, Any], console: Console) -> None:
    """Print one table for each model, and one for preparation."""
    for (part, name), points in _grouped(figures).items():
        unit = "tokens/s" if part == "train" else "rows/s"
        table = Table(f"scale: {name}" if name else "scale: rows", unit, "memory")
        for column in table.columns[1:]:
            column.justify = "right"
        for label, speed, memory in points:
            table.add_row(label, f"{speed:,.0f}", f"{memory / 2**30:.2f} GiB")
        console.print(table)


def _grouped(figures: dict[str, Any]) -> dict[tuple[str, str], list[tuple[str, float, int]]]:
    """Return (label, speed, memory) of each point, by part and model."""
    groups: dict[tuple[str, str], list[tuple[str, float, int]]] = {}
    for key, memory in figures.items():
        point, _, figure = key.rpartition(".")
        if not key.startswith("scale.") or figure != "peak_memory_bytes":
            continue
        part, *name, label = point.split(".")[1:]
        unit = "real_tokens_per_second" if part == "train" else "rows_per_second"
        label = label.replace("x", " x ") if part == "train" else f"{int(label):,}"
        speed = figures[f"{point}.{unit}"]
        groups.setdefault((part, "".join(name)), []).append((label, speed, memory))
    return groups
