"""Preparation, rows to token ids on disk: ours, and the article's script; and packing alone."""

import shutil
import time
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from src.benchmark.config import BenchmarkConfig
from src.benchmark.inputs import read_pairs, with_rows, write_rows
from src.benchmark.part import Part
from src.benchmark.report import Figures
from src.benchmark.stopwatch import Stopwatch
from src.benchmark.turns import Job, Measured, Variant
from src.data.corpus import build_corpus, read_report
from src.data.packing import pack
from src.data.sources import RowReport, open_source
from src.data.template import PROMPT_HEADER, RESPONSE_HEADER
from src.data.tokenizer import END_OF_TEXT, load_tokenizer
from src.model.loss import IGNORE_INDEX

# The lengths of the article's 258,042 rows, as a gamma distribution of their mean and deviation.
NUM_LENGTHS, MEAN, DEVIATION, BLOCK_SIZE = 258_042, 91, 72, 1024
PACK_REPEATS = 7


class Prepare(Part):
    """Rows a second; a lap reads all rows, so nothing warms up."""

    name = "prepare"
    speed = "rows_per_second"
    ratios = (("ours", "article"),)

    def variants(self, device: torch.device) -> list[Variant]:
        return [
            Variant("ours", prepare_ours, num_warmup_laps=0),
            Variant("article", prepare_article, num_warmup_laps=0),
        ]

    def measure(self, config: BenchmarkConfig, job: Job) -> Figures:
        """Return the figures for all rows that ``config`` names, or for ``prepare_rows`` of them.

        More than there are: they come over and over, each prompt with a number of its own.
        """
        named = replace(job.config, data=config.data)
        if config.prepare_rows is not None:
            rows = enumerate(cycle(read_pairs(config)))
            numbered = ((f"{prompt} ({n})", response) for n, (prompt, response) in rows)
            named = with_rows(named, job.folder / "numbered_rows.jsonl")
            write_rows(Path(named.data.path), islice(numbered, config.prepare_rows))
        return super().measure(config, replace(job, config=named))

    def figures(self, measured: dict[str, Measured]) -> Figures:
        first = {name: variant.repeats[0] for name, variant in measured.items()}
        rows = {f"prepare.{name}.num_rows": r.amount // r.num_laps for name, r in first.items()}
        return super().figures(measured) | rows

    def row(self, figures: Figures, name: str) -> dict[str, str]:
        num_rows = figures.get(f"prepare.{name}.num_rows")
        return super().row(figures, name) | {"rows": "" if num_rows is None else f"{num_rows:,}"}


def prepare_ours(job: Job, stopwatch: Stopwatch) -> None:
    """Build the corpus as training does: read, check, encode in batches, mask, write."""
    tokenizer = load_tokenizer(job.config.model.tokenizer)

    def build() -> int:
        source = open_source(job.config.data)
        folder = build_corpus(source, tokenizer, job.config.data.supervise, job.folder)
        num_rows = read_report(folder).read
        shutil.rmtree(folder)
        return num_rows

    stopwatch.time(build)


def prepare_article(job: Job, stopwatch: Stopwatch) -> None:
    """The article's script: one row after another through Hugging Face's tokenizer, then saved."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(job.config.model.tokenizer)

    def encode() -> int:
        examples, report = [], RowReport()
        for _, conversation in open_source(job.config.data).conversations(report):
            prompt, response = conversation.turns[0]
            context = tokenizer.encode(f"{PROMPT_HEADER}{prompt}\n{RESPONSE_HEADER}")
            answer = tokenizer.encode(f" {response}{END_OF_TEXT}")
            labels = [IGNORE_INDEX] * len(context) + answer
            examples.append((torch.tensor(context + answer), torch.tensor(labels)))
        torch.save(examples, job.folder / "examples.pt")
        return report.read

    stopwatch.time(encode)


class Pack(Part):
    """The time and the yield of packing lengths like the article's, in this process."""

    name = "pack"

    def measure(self, config: BenchmarkConfig, job: Job) -> Figures:
        shape = (MEAN / DEVIATION) ** 2
        drawn = np.random.default_rng(0).gamma(shape, MEAN / shape, NUM_LENGTHS)
        lengths = np.clip(drawn.round(), 1, BLOCK_SIZE).astype(np.int64)
        seconds = []
        for _ in range(PACK_REPEATS):
            start = time.perf_counter()
            packing = pack(lengths, BLOCK_SIZE)
            seconds.append(time.perf_counter() - start)
        return {
            "pack.utilisation": float(lengths.sum() / (packing.num_blocks * BLOCK_SIZE)),
            "pack.seconds": float(np.median(seconds)),
            "pack.seconds.spread": [min(seconds), max(seconds)],
            "pack.num_lengths": NUM_LENGTHS,
        }

    def show(self, figures: Figures) -> list[str]:
        if "pack.seconds" not in figures:
            return []
        return [
            f"Packing {figures['pack.num_lengths']:,} lengths fills "
            f"{figures['pack.utilisation']:.3%} in {figures['pack.seconds']:.3f} s."
        ]
