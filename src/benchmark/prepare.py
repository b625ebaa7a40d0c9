"""Preparation, rows to token ids on disk: ours, and the article's script; and packing alone."""

import shutil
import timeit
from dataclasses import replace
from statistics import median

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from src.benchmark.config import BenchmarkConfig
from src.benchmark.part import Figures, Part
from src.benchmark.stopwatch import Stopwatch
from src.benchmark.turns import Job, Variant
from src.data.corpus import build_corpus, read_report
from src.data.packing import pack
from src.data.sources import RowReport, open_source
from src.data.template import PROMPT_HEADER, RESPONSE_HEADER
from src.data.tokenizer import END_OF_TEXT, load_tokenizer
from src.model.loss import IGNORE_INDEX

# The lengths of the article's 258,042 rows, as a gamma distribution of their mean and deviation.
NUM_LENGTHS, MEAN, DEVIATION, BLOCK_SIZE = 258_042, 91, 72, 1024


class Prepare(Part):
    """Rows a second of all rows that the config names; a lap reads them all, so none warms up."""

    name = "prepare"
    speed = "rows_per_second"
    ratios = (("ours", "article"),)

    def variants(self, device: torch.device) -> list[Variant]:
        return [
            Variant("ours", prepare_ours, num_warmup_laps=0),
            Variant("article", prepare_article, num_warmup_laps=0),
        ]

    def measure(self, config: BenchmarkConfig, job: Job) -> Figures:
        named = replace(job.config, data=config.data)
        return super().measure(config, replace(job, config=named))


def prepare_ours(job: Job, stopwatch: Stopwatch) -> None:
    """Build the corpus as training does: read, check, encode in batches, mask, write."""
    tokenizer = load_tokenizer(job.config.model_folder)

    def build() -> int:
        source = open_source(job.config.data)
        folder = build_corpus(source, tokenizer, job.config.data.supervise, job.folder)
        num_rows = read_report(folder).used.total()
        shutil.rmtree(folder)
        return num_rows

    stopwatch.time(build)


def prepare_article(job: Job, stopwatch: Stopwatch) -> None:
    """The article's script: one row after another through Hugging Face's tokenizer, then saved."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(job.config.model_folder)

    def encode() -> int:
        examples = []
        for _, conversation in open_source(job.config.data).conversations(RowReport()):
            prompt, response = conversation.turns[0]
            context = tokenizer.encode(f"{PROMPT_HEADER}{prompt}\n{RESPONSE_HEADER}")
            answer = tokenizer.encode(f" {response}{END_OF_TEXT}")
            labels = [IGNORE_INDEX] * len(context) + answer
            examples.append((torch.tensor(context + answer), torch.tensor(labels)))
        torch.save(examples, job.folder / "examples.pt")
        return len(examples)

    stopwatch.time(encode)


class Pack(Part):
    """The time and the yield of packing lengths like the article's, in this process."""

    name = "pack"

    def measure(self, config: BenchmarkConfig, job: Job) -> Figures:
        shape = (MEAN / DEVIATION) ** 2
        drawn = np.random.default_rng(0).gamma(shape, MEAN / shape, NUM_LENGTHS)
        lengths = np.clip(drawn.round(), 1, BLOCK_SIZE).astype(np.int64)
        seconds = timeit.repeat(lambda: pack(lengths, BLOCK_SIZE), number=1, repeat=7)
        num_positions = pack(lengths, BLOCK_SIZE).num_blocks * BLOCK_SIZE
        return {
            "pack.utilisation": float(lengths.sum() / num_positions),
            "pack.seconds": median(seconds),
            "pack.num_lengths": NUM_LENGTHS,
        }

    def show(self, figures: Figures) -> list[str]:
        if "pack.seconds" not in figures:
            return []
        return [
            f"Packing {figures['pack.num_lengths']:,} lengths fills "
            f"{figures['pack.utilisation']:.3%} in {figures['pack.seconds']:.3f} s."
        ]
