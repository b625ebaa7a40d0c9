"""Training: ours beside the article, Hugging Face and TRL; and what Lightning costs."""

from dataclasses import replace
from functools import partial
from statistics import median

import torch

from src.benchmark import article, huggingface, ours, trl_sft
from src.benchmark.config import BenchmarkConfig
from src.benchmark.inputs import open_blocks, write_inputs
from src.benchmark.machine import matmul_peaks, needed_flops_per_token
from src.benchmark.part import Figures, Part, with_spread
from src.benchmark.turns import Job, Measured, Variant, take_turns

TINY_ROWS, TINY_BLOCK_SIZE, TINY_WARMUP_STEPS = 1024, 64, 20


class Train(Part):
    """Real tokens a second, and the share of the machine's arithmetic that they need."""

    name = "train"
    speed = "real_tokens_per_second"
    others = "article_as_written article_packed huggingface trl_default trl_best bare_loop"
    ratios = tuple(("ours", other) for other in others.split())

    def variants(self, device: torch.device) -> list[Variant]:
        on_cpu = device.type == "cpu"
        # The first steps on a GPU compile, grow the allocator's pool and load kernels.
        variant = partial(Variant, num_warmup_laps=1 if on_cpu else 5)
        as_written = article.settings(device, packing=False)
        packed = article.settings(device, packing=True)
        best = huggingface.CPU_SETTINGS if on_cpu else huggingface.GPU_SETTINGS
        trl_default, trl_best = trl_sft.default_settings(device), trl_sft.best_settings(device)
        return [
            variant("ours", ours.train_ours),
            variant("bare_loop", ours.train_bare_loop),
            variant("article_as_written", article.train_article, as_written, first_that_runs=True),
            variant("article_packed", article.train_article, packed, first_that_runs=True),
            variant("huggingface", huggingface.train_huggingface, best),
            variant("trl_default", trl_sft.train_trl, trl_default, needs="trl"),
            variant("trl_best", trl_sft.train_trl, trl_best, needs="trl"),
        ]

    def measure(self, config: BenchmarkConfig, job: Job) -> Figures:
        before = matmul_peaks(job.device)
        measured = take_turns(self.name, self.variants(job.device), job)
        # Once more: other programs may have been at work the first time.
        after = matmul_peaks(job.device)
        peaks = {name: max(peak, after[name]) for name, peak in before.items()}
        flops = needed_flops_per_token(config.model, open_blocks(job.config))
        figures = self.figures(measured)
        figures |= {f"machine.matmul_{name}_flops": peak for name, peak in peaks.items()}
        figures["train.needed_flops_per_token"] = flops
        for name, variant in measured.items():
            share = variant.per_second * flops / max(peaks.values())
            figures[f"train.{name}.share_of_matmul_peak"] = share
            figures[f"train.{name}.seconds_per_step"] = median(variant.seconds_per_lap)
        return figures | lightning_figures(_tiny_steps(config, job))

    def row(self, figures: Figures, name: str) -> dict[str, str]:
        share = figures[f"train.{name}.share_of_matmul_peak"]
        return super().row(figures, name) | {"of peak": f"{share:.1%}"}

    def show(self, figures: Figures) -> list[str]:
        paragraphs, key = super().show(figures), "train.lightning.ms_per_step"
        if key in figures:
            cost = with_spread(figures, key, "train.lightning.spread", ".2f", " ms")
            paragraphs.append(f"Lightning costs {cost} a step on a tiny model.")
        return paragraphs


def _tiny_steps(config: BenchmarkConfig, job: Job) -> dict[str, Measured]:
    """Measure two loops whose difference is what Lightning costs, where a step is short."""
    if not (config.has("ours") and config.has("bare_loop")):
        return {}
    data = replace(config.data, block_size=TINY_BLOCK_SIZE)
    config = replace(config, batch_size=1, data=data)
    tiny = write_inputs(job.folder / "tiny", config, config.tiny, TINY_ROWS)
    variant = partial(Variant, num_warmup_laps=TINY_WARMUP_STEPS)
    loops = [variant("ours", ours.train_ours), variant("bare_loop", ours.train_bare_loop)]
    return take_turns("lightning", loops, replace(job, config=tiny))


def lightning_figures(tiny: dict[str, Measured]) -> Figures:
    """Return what Lightning and our callbacks add to a step of a tiny model, in milliseconds."""
    if not tiny.keys() >= {"ours", "bare_loop"}:
        return {}
    loops = tiny["ours"].seconds_per_lap, tiny["bare_loop"].seconds_per_lap
    differences = [1000 * (ours - bare) for ours, bare in zip(*loops, strict=True)]
    return {
        "train.lightning.ms_per_step": median(differences),
        "train.lightning.spread": [min(differences), max(differences)],
        "train.lightning.tiny_step_ms": 1000 * median(loops[0]),
    }
