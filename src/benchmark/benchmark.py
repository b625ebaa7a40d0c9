"""One run of the benchmark, from its config to ``benchmark.json`` and ``benchmark.md``."""

import json
import logging
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

import torch

from src import atomic
from src.benchmark.config import BenchmarkConfig
from src.benchmark.generate import Generate
from src.benchmark.inputs import open_blocks, write_inputs
from src.benchmark.learn import Learn
from src.benchmark.machine import describe, measured_code
from src.benchmark.part import Part
from src.benchmark.prepare import Pack, Prepare
from src.benchmark.report import Figures, document, markdown_table
from src.benchmark.train import Train
from src.benchmark.turns import Job
from src.errors import UserError
from src.model.device import choose_device
from src.training.config import AUTO
from src.training.machine import choose_precision

log = logging.getLogger(__name__)

# A new part is one file and one line here.
PARTS: tuple[Part, ...] = (Train(), Prepare(), Pack(), Generate(), Learn())
ALL = "all"


def measure(config: BenchmarkConfig, run_folder: Path, overrides: Sequence[str] = ()) -> Figures:
    """Measure, write ``benchmark.json`` and ``benchmark.md`` into ``run_folder``, and print.

    Raises:
        UserError: for what a person can mend.
    """
    parts = chosen_parts(config)
    device = choose_device(config.trainer.accelerator, "trainer.accelerator")
    precision = choose_precision(config.trainer, device.type)
    if config.batch_size == AUTO:
        on_cpu = device.type == "cpu"
        config = replace(
            config, batch_size=config.cpu_batch_size if on_cpu else config.gpu_batch_size
        )
    command = shlex.join(["python", "-m", "src.benchmark", *overrides])
    figures: Figures = {"what": config.what, "command": command, "date": str(date.today())}
    figures |= measured_code() | describe(device, precision)
    work = run_folder / "work"
    try:
        shared = write_inputs(work / "inputs", config, config.model, config.num_rows)
        figures |= describe_inputs(config, shared)
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
    """Return what is to be measured.

    Raises:
        UserError: there is no such part, or none of them has a variant of such a name.
    """
    names = (*(part.name for part in PARTS), ALL)
    if config.what not in names:
        raise UserError(f"what={config.what}: must be one of {', '.join(names)}")
    parts = [p for p in PARTS if p.name == config.what or (p.in_all and config.what == ALL)]
    known = {v.name for part in parts for v in part.variants(torch.device("cpu"))}
    for name in config.variants or ():
        if name not in known:
            there_are = ", ".join(sorted(known)) or "none"
            raise UserError(f"variants: what={config.what} has no {name}; it has {there_are}")
    return parts


def describe_inputs(config: BenchmarkConfig, shared: BenchmarkConfig) -> Figures:
    """Return what rows and model the figures are of.

    Raises:
        UserError: no row fits into a block.
    """
    blocks = open_blocks(shared)
    if not len(blocks):
        raise UserError("no row fits into a block: raise data.block_size")
    return {
        "rows.source": config.data.path or "the embedded corpus",
        "rows.num": blocks.num_examples,
        "rows.mean_tokens": blocks.num_tokens / blocks.num_examples,
        "rows.supervised_share": blocks.num_targets / blocks.num_tokens,
        "rows.block_size": blocks.block_size,
        "batch_size": config.batch_size,
        "model.n_layer": config.model.n_layer,
        "model.n_embd": config.model.n_embd,
    }


def tables_of(figures: Figures) -> str:
    """Return Markdown: the tables of all parts, and what they are of."""
    return document(figures, [text for part in PARTS for text in part.show(figures)])


def tables(path: Path) -> str:
    """Return the tables of a ``benchmark.json``, or of all those in a folder in one table.

    Raises:
        UserError: there is none.
    """
    files = [path] if path.is_file() else list(path.rglob("benchmark.json"))
    if not files:
        raise UserError(f"show={path}: there is no benchmark.json")
    files.sort(key=lambda file: file.stat().st_mtime)
    try:
        runs = [json.loads(file.read_text(encoding="utf-8")) for file in files]
        if len(runs) == 1:
            return tables_of(runs[0])
        rows = zip(files, runs, strict=True)
        table = markdown_table([{"run": file.parent.name} | _speeds(run) for file, run in rows])
        return document(runs[0], [table, "The first of these runs:"])
    except (ValueError, KeyError) as error:
        raise UserError(f"show={path}: not what the benchmark writes ({error!r})") from error


def _speeds(figures: Figures) -> dict[str, str]:
    return {
        f"{heading}: {name}": cells[heading]
        for part in PARTS
        for name in part.measured_variants(figures)
        for cells in [part.row(figures, name)]
        for heading in list(cells)[1:]
        if cells[heading]
    }
