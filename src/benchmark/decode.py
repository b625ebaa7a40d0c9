"""Decoding of whole answers that no end token cuts short: ours, the article's, Hugging Face's.

A new variant is one function here and one line in ``variants``.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from src.benchmark import article, huggingface
from src.benchmark.inputs import open_blocks
from src.benchmark.stopwatch import Stopwatch
from src.benchmark.workers import Job
from src.model.decoder import Decoder
from src.model.generation import generate
from src.model.pretrained import load_pretrained

PROMPT_TOKENS = 32
WARMUP_TOKENS = 3
NO_TOKEN = -1  # an end token that no model says


def decode_ours(job: Job, stopwatch: Stopwatch) -> None:
    """Our cached decoding, greedy, of ``batch_size`` prompts at once, with ``weights``.

    As in a conversation weights are packed once; the prompts are read anew for each answer.
    """
    model = load_pretrained(job.config.model.pretrained).to(job.device)
    prompts = read_prompts(job, job.setting["batch_size"]).tolist()
    decoder = Decoder(model, len(prompts), job.setting["weights"])

    def answer(num_tokens: int) -> int:
        generation = replace(job.config.generation, max_new_tokens=num_tokens, temperature=0.0)
        steps = generate(model, prompts, NO_TOKEN, generation, decoder)
        return sum(len(tokens) - tokens.count(None) for tokens in steps)

    _repeat(job, stopwatch, answer)


def decode_blog(job: Job, stopwatch: Stopwatch) -> None:
    """The article's: no cache, the whole text again for every token."""
    model = article.load_article_gpt(job.config.model.pretrained).to(job.device).eval()
    prompt = read_prompts(job, 1).to(job.device)

    def answer(num_tokens: int) -> int:
        return article.decode(model, prompt, num_tokens).shape[1] - prompt.shape[1]

    _repeat(job, stopwatch, answer)


def decode_huggingface(job: Job, stopwatch: Stopwatch) -> None:
    """``generate`` with SDPA, greedy; ``cache`` is dynamic, or static and so compiled on a GPU."""
    model = huggingface.load(job.config.model.pretrained, dropout=0.0).to(job.device).eval()
    model.generation_config.eos_token_id = None  # never stops
    model.generation_config.pad_token_id = 0
    prompt = read_prompts(job, 1).to(job.device)
    static = {"cache_implementation": "static"} if job.setting["cache"] == "static" else {}

    @torch.inference_mode()
    def answer(num_tokens: int) -> int:
        ids = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=num_tokens,
            do_sample=False,
            **static,
        )
        return ids.shape[1] - prompt.shape[1]

    _repeat(job, stopwatch, answer, whole_warmup=bool(static))


def read_prompts(job: Job, num_prompts: int) -> Tensor:
    """Return (num_prompts, T) tokens of the shared rows, all prompts of one length."""
    blocks = open_blocks(job.config, packing=True, batch_size=1, micro_batch_size=1)
    ids = torch.from_numpy(blocks.splits["train"].corpus.input_ids[:].astype("int64"))
    length = min(PROMPT_TOKENS, _num_positions(job) // 2)
    needed = num_prompts * length
    return ids.repeat(-(-needed // len(ids)))[:needed].view(num_prompts, length)


def _num_positions(job: Job) -> int:
    return job.config.model.n_positions


def _repeat(
    job: Job,
    stopwatch: Stopwatch,
    answer: Callable[[int], int],
    whole_warmup: bool = False,
) -> None:
    """Answer again and again; a lap is an answer of as many tokens as ``generation`` says."""
    room = _num_positions(job) - min(PROMPT_TOKENS, _num_positions(job) // 2)
    num_tokens = min(job.config.generation.max_new_tokens, room)
    answer(num_tokens if whole_warmup else min(WARMUP_TOKENS, num_tokens))
    stopwatch.begin()
    while True:
        stopwatch.lap(answer(num_tokens))
