"""Everything that can be measured, by part. To add a variant, add a line."""

import torch

from src.benchmark import article, decode, huggingface, ours, prepare, trl_sft
from src.benchmark.workers import Variant

PARTS = ("train", "prepare", "pack", "generate")


def training(device: torch.device) -> list[Variant]:
    """Return the variants of training."""
    # The first steps on a GPU compile, grow the allocator's pool and load kernels.
    warmup = 1 if device.type == "cpu" else 5
    return [
        Variant("ours", ours.train, num_warmup_laps=warmup),
        Variant("bare_loop", ours.train_bare_loop, num_warmup_laps=warmup),
        Variant(
            "blog_as_written",
            article.train_as_written,
            settings=article.train_settings(device),
            num_warmup_laps=warmup,
        ),
        Variant(
            "blog_packed",
            article.train_packed,
            settings=article.train_settings(device),
            num_warmup_laps=warmup,
        ),
        Variant(
            "huggingface",
            huggingface.train,
            settings=huggingface.train_settings(device),
            num_warmup_laps=warmup,
        ),
        Variant(
            "trl_default",
            trl_sft.train,
            settings=trl_sft.default_settings(device),
            needs="trl",
            num_warmup_laps=warmup,
        ),
        Variant(
            "trl_best",
            trl_sft.train,
            settings=trl_sft.best_settings(device),
            needs="trl",
            num_warmup_laps=warmup,
        ),
    ]


def lightning() -> list[Variant]:
    """Return the two loops whose difference is what Lightning costs."""
    return [
        Variant("ours", ours.train, num_warmup_laps=20),
        Variant("bare_loop", ours.train_bare_loop, num_warmup_laps=20),
    ]


def preparation() -> list[Variant]:
    """Return the variants of preparation; one lap reads all rows."""
    return [
        Variant("ours", prepare.prepare_ours, num_warmup_laps=0),
        Variant("blog", prepare.prepare_blog, num_warmup_laps=0),
    ]


def generation(device: torch.device) -> list[Variant]:
    """Return the variants of decoding; each warms up by itself."""
    variants = [
        _decoding("ours", 1, "fp32"),
        _decoding("ours_bf16", 1, "bf16"),
        _decoding("ours_int8", 1, "int8"),
        _decoding("ours_batch_32", 32, "fp32"),
        _decoding("ours_int8_batch_32", 32, "int8"),
        Variant("blog", decode.decode_blog, num_warmup_laps=0),
        Variant(
            "huggingface", decode.decode_huggingface, ({"cache": "dynamic"},), num_warmup_laps=0
        ),
    ]
    if device.type == "cuda":
        static = ({"cache": "static"},)
        variants.append(
            Variant("huggingface_static", decode.decode_huggingface, static, num_warmup_laps=0)
        )
    return variants


def _decoding(name: str, batch_size: int, weights: str) -> Variant:
    setting = {"batch_size": batch_size, "weights": weights}
    return Variant(name, decode.decode_ours, (setting,), num_warmup_laps=0)


_CUDA = torch.device("cuda")  # has every variant that there is
NAMES = {
    "train": {variant.name for variant in training(_CUDA)},
    "prepare": {variant.name for variant in preparation()},
    "generate": {variant.name for variant in generation(_CUDA)},
}
