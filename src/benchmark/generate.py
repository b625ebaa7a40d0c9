"""Decoding of whole answers that no end token cuts short, and reading of a long prompt.

Ours, the article's, Hugging Face's, llama.cpp's.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from src.benchmark import article, huggingface
from src.benchmark.inputs import open_blocks
from src.benchmark.llama_cpp import open_engine
from src.benchmark.part import Part
from src.benchmark.stopwatch import Stopwatch
from src.benchmark.turns import Job, Variant
from src.model.decoder import Decoder
from src.model.generation import generate
from src.model.pretrained import load_pretrained

PROMPT_TOKENS = 32
LONG_PROMPT_TOKENS = 900
NO_TOKEN = -1  # an end token that no model says
OURS = {"ours": "fp32", "ours_fp16": "fp16", "ours_bf16": "bf16", "ours_int8": "int8"}
LLAMA_CPP = {"llama_cpp_f32": "f32", "llama_cpp_f16": "f16", "llama_cpp_q8_0": "q8_0"}
BESIDE = (  # of the same number of bits
    *(("ours", "llama_cpp_f32"), ("ours_fp16", "llama_cpp_f16")),
    *(("ours_bf16", "llama_cpp_f16"), ("ours_int8", "llama_cpp_q8_0")),
)


class Generate(Part):
    """Tokens a second; a lap is a whole answer, or a prompt."""

    name = "generate"
    speed = "tokens_per_second"
    ratios = (
        ("ours", "article"),
        ("ours", "huggingface"),
        ("ours", "huggingface_static"),
        ("ours_fp16", "huggingface"),
        ("ours_bf16", "huggingface"),
        ("ours_int8", "huggingface"),
        ("ours_batch_32", "ours"),
        ("ours_int8_batch_32", "ours_int8"),
        ("ours_sampled_batch_64", "ours_batch_64"),
        *(
            (f"{ours}{job}", f"{theirs}{job}")
            for job in ("", "_batch_32", "_prompt_900")
            for ours, theirs in BESIDE
        ),
    )

    def variants(self, device: torch.device) -> list[Variant]:
        variants = []
        for name, weights in OURS.items():
            decode = partial(decode_ours, weights=weights)
            read = partial(read_ours, weights=weights)
            variants += [
                Variant(name, decode),
                Variant(f"{name}_batch_32", partial(decode, batch_size=32)),
                Variant(f"{name}_prompt_900", read),
            ]
        many = partial(decode_ours, batch_size=64)
        variants += [
            Variant("ours_batch_64", many),
            Variant("ours_sampled_batch_64", partial(many, temperature=1.0)),
            Variant("article", decode_article),
            Variant("huggingface", decode_huggingface),
        ]
        if device.type != "cpu":  # a static cache is compiled, on a GPU alone
            static = partial(decode_huggingface, cache="static")
            variants.append(Variant("huggingface_static", static))
            return variants
        for name, dtype in LLAMA_CPP.items():
            decode = partial(decode_llama_cpp, dtype=dtype)
            read = partial(read_llama_cpp, dtype=dtype)
            variants += [
                llama_cpp_variant(name, decode),
                llama_cpp_variant(f"{name}_batch_32", partial(decode, batch_size=32)),
                llama_cpp_variant(f"{name}_prompt_900", read),
            ]
        return variants


def llama_cpp_variant(name: str, work: Callable[..., None]) -> Variant:
    """Return a variant that needs llama.cpp.

    It is measured with the layout of weights that llama.cpp makes for the processor; without that
    only where its process dies of it, as with q8_0 and AMX in llama-cpp-python 0.3.36.
    """
    settings = ({"repack": True}, {"repack": False})
    return Variant(
        name, work, settings, first_that_runs=True, needs="llama_cpp", extra="engines,gguf"
    )


def decode_ours(
    job: Job,
    stopwatch: Stopwatch,
    batch_size: int = 1,
    weights: str = "fp32",
    temperature: float = 0.0,
) -> None:
    """Our cached decoding of ``batch_size`` prompts at once.

    As in a conversation weights are packed once; the prompts are read anew for each answer.
    """
    model = load_pretrained(job.config.model_folder).to(job.device)
    prompts, num_tokens = read_prompts(job, batch_size)
    decoder = Decoder(model, batch_size, weights)
    generation = replace(job.config.generation, max_new_tokens=num_tokens, temperature=temperature)

    def answer() -> int:
        steps = generate(model, prompts.tolist(), (NO_TOKEN,), generation, decoder)
        return sum(len(tokens) - tokens.count(None) for tokens in steps)

    stopwatch.time(answer)


def read_ours(job: Job, stopwatch: Stopwatch, weights: str) -> None:
    """A long prompt up to its first answered token."""
    model = load_pretrained(job.config.model_folder).to(job.device)
    (prompt,), _ = read_prompts(job, 1, LONG_PROMPT_TOKENS)
    decoder = Decoder(model, 1, weights)

    def read() -> int:
        (slot,) = decoder.join([prompt.tolist()], [job.config.generation])
        decoder.leave(slot)
        return len(prompt)

    stopwatch.time(read)


def decode_llama_cpp(
    job: Job, stopwatch: Stopwatch, dtype: str, repack: bool, batch_size: int = 1
) -> None:
    """llama.cpp, greedy."""
    prompts, num_tokens = read_prompts(job, batch_size)
    num_positions = prompts.shape[1] + num_tokens
    with open_engine(job, dtype, batch_size, num_positions, repack) as engine:
        stopwatch.time(lambda: engine.answer(prompts.tolist(), num_tokens))


def read_llama_cpp(job: Job, stopwatch: Stopwatch, dtype: str, repack: bool) -> None:
    """A long prompt up to its first answered token."""
    prompts, _ = read_prompts(job, 1, LONG_PROMPT_TOKENS)
    with open_engine(job, dtype, 1, prompts.shape[1] + 1, repack) as engine:

        def read() -> int:
            engine.answer(prompts.tolist(), 1)
            return prompts.numel()

        stopwatch.time(read)


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


def read_prompts(job: Job, num_prompts: int, length: int = PROMPT_TOKENS) -> tuple[Tensor, int]:
    """Return prompts (num_prompts, T) of the shared rows, and how many tokens to answer with.

    A model of few positions reads less than ``length``.
    """
    ids = torch.from_numpy(open_blocks(job.config).corpus.input_ids[:].astype("int64"))
    num_positions = job.config.model.n_positions
    length = min(length, num_positions * 9 // 10)
    needed = num_prompts * length
    prompts = ids.repeat(-(-needed // len(ids)))[:needed].view(num_prompts, length)
    num_tokens = min(job.config.generation.max_new_tokens, num_positions - length)
    return prompts.to(job.device), num_tokens
