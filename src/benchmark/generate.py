"""Decoding of whole answers that no end token cuts short: ours, the article's, Hugging Face's."""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from src.benchmark import article, huggingface
from src.benchmark.inputs import open_blocks
from src.benchmark.part import Part
from src.benchmark.stopwatch import Stopwatch
from src.benchmark.turns import Job, Variant
from src.model.decoder import Decoder
from src.model.generation import generate
from src.model.pretrained import load_pretrained

PROMPT_TOKENS = 32
NO_TOKEN = -1  # an end token that no model says


class Generate(Part):
    """Tokens a second; a lap is a whole answer."""

    name = "generate"
    speed = "tokens_per_second"
    ratios = (
        ("ours", "article"),
        ("ours", "huggingface"),
        ("ours", "huggingface_static"),
        ("ours_bf16", "huggingface"),
        ("ours_int8", "huggingface"),
        ("ours_batch_32", "ours"),
        ("ours_int8_batch_32", "ours_int8"),
    )

    def variants(self, device: torch.device) -> list[Variant]:
        variants = [
            Variant("ours", decode_ours),
            Variant("ours_bf16", partial(decode_ours, weights="bf16")),
            Variant("ours_int8", partial(decode_ours, weights="int8")),
            Variant("ours_batch_32", partial(decode_ours, batch_size=32)),
            Variant("ours_int8_batch_32", partial(decode_ours, batch_size=32, weights="int8")),
            Variant("article", decode_article),
            Variant("huggingface", decode_huggingface),
        ]
        if device.type != "cpu":  # a static cache is compiled, on a GPU alone
            static = partial(decode_huggingface, cache="static")
            variants.append(Variant("huggingface_static", static))
        return variants


def decode_ours(job: Job, stopwatch: Stopwatch, batch_size: int = 1, weights: str = "fp32") -> None:
    """Our cached decoding, greedy, of ``batch_size`` prompts at once.

    As in a conversation weights are packed once; the prompts are read anew for each answer.
    """
    model = load_pretrained(job.config.model_folder).to(job.device)
    prompts, num_tokens = read_prompts(job, batch_size)
    decoder = Decoder(model, batch_size, weights)
    generation = replace(job.config.generation, max_new_tokens=num_tokens, temperature=0.0)

    def answer() -> int:
        steps = generate(model, prompts.tolist(), (NO_TOKEN,), generation, decoder)
        return sum(len(tokens) - tokens.count(None) for tokens in steps)

    stopwatch.time(answer)


def decode_article(job: Job, stopwatch: Stopwatch) -> None:
    """The article's: no cache, the whole text again for every token."""
    model = article.load(job.config.model_folder, job.device).eval()
    prompt, num_tokens = read_prompts(job, 1)
    stopwatch.time(lambda: article.decode(model, prompt, num_tokens).shape[1] - prompt.shape[1])


def decode_huggingface(job: Job, stopwatch: Stopwatch, cache: str | None = None) -> None:
    """``generate`` with SDPA, greedy."""
    model = huggingface.load(job.config.model_folder, 0.0, job.device).eval()
    model.generation_config.update(
        eos_token_id=None,  # never stops
        pad_token_id=0,
        do_sample=False,
        cache_implementation=cache,
    )
    prompt, num_tokens = read_prompts(job, 1)
    mask = torch.ones_like(prompt)

    @torch.inference_mode()
    def answer() -> int:
        ids = model.generate(prompt, attention_mask=mask, max_new_tokens=num_tokens)
        return ids.shape[1] - prompt.shape[1]

    stopwatch.time(answer)


def read_prompts(job: Job, num_prompts: int) -> tuple[Tensor, int]:
    """Return prompts (num_prompts, T) of the shared rows, and how many tokens to answer with."""
    ids = torch.from_numpy(open_blocks(job.config).corpus.input_ids[:].astype("int64"))
    num_positions = job.config.model.n_positions
    length = min(PROMPT_TOKENS, num_positions // 2)
    needed = num_prompts * length
    prompts = ids.repeat(-(-needed // len(ids)))[:needed].view(num_prompts, length)
    num_tokens = min(job.config.generation.max_new_tokens, num_positions - length)
    return prompts.to(job.device), num_tokens
