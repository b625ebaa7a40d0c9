"""Rows to token ids on disk: ours, and the article's script; and packing alone."""

import shutil
import time

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from src.benchmark.stopwatch import Stopwatch
from src.benchmark.workers import Job
from src.data.corpus import build_corpus, read_report
from src.data.packing import pack
from src.data.sources import RowReport, open_source
from src.data.template import PROMPT_HEADER, RESPONSE_HEADER
from src.data.tokenizer import END_OF_TEXT, load_tokenizer
from src.model.loss import IGNORE_INDEX

# The lengths of the article's 258,042 rows, as a gamma distribution of their mean and deviation.
NUM_LENGTHS, MEAN, DEVIATION, BLOCK_SIZE = 258_042, 91, 72, 1024
PACK_REPEATS = 7


def prepare_ours(job: Job, stopwatch: Stopwatch) -> None:
    """Build the corpus as training does: read, check, encode in batches, mask, write."""
    tokenizer = load_tokenizer(job.config.model.tokenizer)
    stopwatch.begin()
    while True:
        source = open_source(job.config.data)
        folder = build_corpus(source, tokenizer, job.config.data.supervise, job.folder)
        num_rows = read_report(folder).read
        shutil.rmtree(folder)
        stopwatch.lap(num_rows)


def prepare_blog(job: Job, stopwatch: Stopwatch) -> None:
    """The article's script: one row after another through Hugging Face's tokenizer, then saved."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(job.config.model.tokenizer)
    stopwatch.begin()
    while True:
        examples, report = [], RowReport()
        for _, conversation in open_source(job.config.data).conversations(report):
            prompt, response = conversation.turns[0]
            context = tokenizer.encode(f"{PROMPT_HEADER}{prompt}\n{RESPONSE_HEADER}")
            answer = tokenizer.encode(f" {response}{END_OF_TEXT}")
            labels = [IGNORE_INDEX] * len(context) + answer
            examples.append((torch.tensor(context + answer), torch.tensor(labels)))
        torch.save(examples, job.folder / "examples.pt")
        stopwatch.lap(report.read)


def measure_packing() -> dict[str, float]:
    """Return ``utilisation`` and the median ``seconds`` of packing lengths like the article's."""
    shape = (MEAN / DEVIATION) ** 2
    drawn = np.random.default_rng(0).gamma(shape, MEAN / shape, NUM_LENGTHS)
    lengths = np.clip(drawn.round(), 1, BLOCK_SIZE).astype(np.int64)
    seconds = []
    for _ in range(PACK_REPEATS):
        start = time.perf_counter()
        packing = pack(lengths, BLOCK_SIZE)
        seconds.append(time.perf_counter() - start)
    return {
        "utilisation": float(lengths.sum() / (packing.num_blocks * BLOCK_SIZE)),
        "seconds": float(np.median(seconds)),
        "seconds.spread": [min(seconds), max(seconds)],
    }
