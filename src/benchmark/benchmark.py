"""One run of the benchmark, from its config to ``benchmark.json`` and ``benchmark.md``."""

import json
import logging
import shlex
import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

import torch

from src.benchmark.config import BenchmarkConfig
from src.benchmark.cores import Cores
from src.benchmark.generate import Generate
from src.benchmark.inputs import describe_inputs, write_inputs
from src.benchmark.learn import Learn
from src.benchmark.machine import describe_machine
from src.benchmark.part import Figures, Part
from src.benchmark.preferences import Preferences
from src.benchmark.prepare import Pack, Prepare
from src.benchmark.train import Train
from src.benchmark.turns import Job
from src.checks import AUTO
from src.errors import UserError
from src.files import atomic
from src.model.device import choose_device
from src.training.machine import choose_precision
from src.wording.command_line import program
from src.wording.nearest import choice_question, path_question

log = logging.getLogger(__name__)

# A new part is one file and one line here.
PARTS: tuple[Part, ...] = (
    *(Train(), Prepare(), Pack(), Generate(), Cores(), Learn()),
    Preferences(),
)
ALL = "all"
CPU_BATCH_SIZE, GPU_BATCH_SIZE = 4, 32  # blocks: as the article's 2080Ti, as its A100


def measure(config: BenchmarkConfig, run_folder: Path, overrides: Sequence[str] = ()) -> Figures:
    """Measure, write ``benchmark.json`` and ``benchmark.md`` into ``run_folder``, and print.

    Raises UserError for what a person can mend.
    """
    parts = chosen_parts(config)
    device = choose_device(config.trainer.accelerator, "trainer.accelerator")
    precision = choose_precision(config.trainer, device.type)
    if config.batch_size == AUTO:
        size = CPU_BATCH_SIZE if device.type == "cpu" else GPU_BATCH_SIZE
        config = replace(config, batch_size=size)
    command = shlex.join([*program("benchmark"), *overrides])
    figures: Figures = {"what": config.what, "command": command, "date": str(date.today())}
    work = run_folder / "work"
    try:
        shared = write_inputs(work / "inputs", config, config.model, config.num_rows)
        figures |= describe_inputs(shared, config.data.path) | describe_machine(device, precision)
        job = Job(shared, device, precision, work, run_folder / "logs")
        for part in parts:
            figures |= part.measure(config, job)
    except (KeyboardInterrupt, SystemExit):
        log.warning("stopped: nothing is written")
        raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    text = tables_of(figures)
    atomic.write_json(run_folder / "benchmark.json", figures)
    atomic.write_text(run_folder / "benchmark.md", text)
    print(text)
    log.info("all figures:  %s", run_folder / "benchmark.json")
    return figures


def chosen_parts(config: BenchmarkConfig) -> list[Part]:
    """Return what is to be measured; UserError if there is no such part, or no such variant."""
    names = (*(part.name for part in PARTS), ALL)
    if config.what not in names:
        hint = choice_question(config.what, names)
        raise UserError(f"what={config.what}: must be one of {', '.join(names)}{hint}")
    parts = [p for p in PARTS if p.name == config.what or (p.in_all and config.what == ALL)]
    kinds = [torch.device("cpu"), torch.device("cuda")]  # some variants need a GPU
    known = {v.name for part in parts for kind in kinds for v in part.variants(kind)}
    for name in set(config.variants or ()) - known:
        there_are = ", ".join(sorted(known)) or "none"
        raise UserError(f"variants: what={config.what} has no {name}; it has {there_are}")
    return parts


def tables_of(figures: Figures) -> str:
    """Return Markdown: the tables of all parts, and what was measured, where and of which code."""
    paragraphs = [text for part in PARTS for text in part.show(figures)]
    facts: dict[str, list[str]] = {}  # by paragraph
    for key, value in figures.items():
        group, _, name = key.rpartition(".")
        if group in ("", "git", "rows", "model"):
            facts.setdefault("Run", []).append(_fact(key, value))
        elif group == "machine":
            facts.setdefault("Machine", []).append(_fact(name, value))
    paragraphs += [
        textwrap.fill(f"{heading}: {', '.join(values)}.", 100, break_on_hyphens=False)
        for heading, values in facts.items()
    ]
    return "\n\n".join(paragraphs) + "\n"


def _fact(name: str, value: str | float) -> str:
    if isinstance(value, str):
        return f"{name} {value}"
    is_size = name.endswith("_bytes")
    return f"{name[:-6]} {value / 2**30:.4g} GiB" if is_size else f"{name} {value:,.4g}"


def tables(path: Path) -> str:
    """Return the tables of a ``benchmark.json``, or of all in a folder; UserError without one."""
    if not path.exists():
        raise UserError(f"show={path}: there is no such file or folder{path_question(path)}")
    files = sorted(path.rglob("benchmark.json")) if path.is_dir() else [path]
    try:
        texts = [tables_of(json.loads(file.read_text(encoding="utf-8"))) for file in files]
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"show={path}: not what the benchmark writes ({error!r})") from error
    if not "".join(texts).strip():
        raise UserError(f"show={path}: there is no benchmark.json with figures")
    return "\n".join(texts)
