"""What was measured, as flat figures, as ratios and as tables."""

from collections.abc import Iterable
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from src.benchmark.rounds import Measured

Figures = dict[str, Any]

# (part, ours, the other): how many times faster ours is.
RATIOS = (
    ("train", "ours", "blog_as_written"),
    ("train", "ours", "blog_packed"),
    ("train", "ours", "huggingface"),
    ("train", "ours", "trl_default"),
    ("train", "ours", "trl_best"),
    ("train", "ours", "bare_loop"),
    ("prepare", "ours", "blog"),
    ("generate", "ours", "blog"),
    ("generate", "ours", "huggingface"),
    ("generate", "ours_bf16", "huggingface"),
    ("generate", "ours_int8", "huggingface"),
    ("generate", "ours", "huggingface_static"),
    ("generate", "ours_batch_32", "ours"),
    ("generate", "ours_int8_batch_32", "ours_int8"),
)
UNITS = {
    "train": "real_tokens_per_second",
    "prepare": "rows_per_second",
    "generate": "tokens_per_second",
}


def figures_of(part: str, measured: dict[str, Measured]) -> Figures:
    """Return the figures of one part under flat names: ``<part>.<variant>.<figure>``."""
    unit = UNITS[part]
    figures: Figures = {}
    for name, variant in measured.items():
        if not variant.repeats:
            continue
        prefix = f"{part}.{name}"
        figures |= {
            f"{prefix}.{unit}": variant.per_second,
            f"{prefix}.spread": variant.spread,
            f"{prefix}.repeats": [repeat.per_second for repeat in variant.repeats],
            f"{prefix}.peak_memory_bytes": variant.peak_memory_bytes,
        }
        if part == "train":
            figures[f"{prefix}.seconds_per_step"] = variant.seconds_per_lap
        if variant.setting:
            figures[f"{prefix}.setting"] = dict(variant.setting)
        if variant.tried:
            figures[f"{prefix}.settings"] = variant.tried
    return figures


def ratios_of(part: str, measured: dict[str, Measured]) -> Figures:
    """Return ``ratio.<part>.<ours>_to_<other>`` of the medians, with the rounds' own as spread."""
    figures: Figures = {}
    for where, ours, other in RATIOS:
        if where != part or not _all_measured(measured, ours, other):
            continue
        a, b = measured[ours], measured[other]
        rounds = [x.per_second / y.per_second for x, y in zip(a.repeats, b.repeats, strict=False)]
        name = f"ratio.{part}.{ours}_to_{other}"
        figures[name] = a.per_second / b.per_second
        figures[f"{name}.spread"] = [min(rounds), max(rounds)]
    return figures


def lightning_figures(tiny: dict[str, Measured]) -> Figures:
    """Return what Lightning and our callbacks add to a step of a tiny model, in milliseconds."""
    if not _all_measured(tiny, "ours", "bare_loop"):
        return {}
    milliseconds = {
        name: [1000 * repeat.seconds / repeat.num_laps for repeat in variant.repeats]
        for name, variant in tiny.items()
    }
    pairs = zip(milliseconds["ours"], milliseconds["bare_loop"], strict=False)
    differences = [ours - bare for ours, bare in pairs]
    return {
        "train.lightning.ms_per_step": median(differences),
        "train.lightning.spread": [min(differences), max(differences)],
        "train.lightning.tiny_step_ms": median(milliseconds["ours"]),
        "train.lightning.tiny_bare_step_ms": median(milliseconds["bare_loop"]),
    }


def _all_measured(measured: dict[str, Measured], *names: str) -> bool:
    return all(name in measured and measured[name].repeats for name in names)


def show(figures: Figures, console: Console) -> None:
    """Print the tables of all parts, and the ratios."""
    for part, unit in UNITS.items():
        names = variants_of(figures, part)
        if not names:
            continue
        speed = unit.removeprefix("real_").replace("_per_second", "/s")
        of_peak = ["of peak"] if part == "train" else []
        table = Table(part, speed, "slowest - fastest", "memory", *of_peak)
        for column in table.columns:
            column.no_wrap = True
            column.justify = "left" if column.header == part else "right"
        for name in names:
            low, high = figures[f"{part}.{name}.spread"]
            cells = [
                name,
                f"{figures[f'{part}.{name}.{unit}']:,.0f}",
                f"{low:,.0f} - {high:,.0f}",
                f"{figures[f'{part}.{name}.peak_memory_bytes'] / 2**30:.2f} GiB",
            ]
            share = figures.get(f"{part}.{name}.share_of_matmul_peak")
            table.add_row(*cells, *([f"{share:.1%}"] if share is not None else []))
        console.print(table)
    for line in lines(figures):
        console.print(line, highlight=False)


def variants_of(figures: Figures, part: str) -> list[str]:
    """Return the names of the variants of ``part`` that have a speed."""
    unit = UNITS[part]
    keys = (key.split(".") for key in figures)
    return [key[1] for key in keys if len(key) == 3 and key[0] == part and key[2] == unit]


def lines(figures: Figures) -> Iterable[str]:
    """Yield the ratios and the single figures as sentences."""
    for key, value in figures.items():
        if key.startswith("ratio.") and not key.endswith(".spread"):
            part, names = key.split(".")[1:]
            ours, _, other = names.partition("_to_")
            low, high = figures[f"{key}.spread"]
            yield f"{part}: {ours} is {value:.2f}x {other} ({low:.2f} - {high:.2f})"
    if "train.lightning.ms_per_step" in figures:
        low, high = figures["train.lightning.spread"]
        yield (
            f"train: Lightning costs {figures['train.lightning.ms_per_step']:.2f} ms a step on a "
            f"tiny model ({low:.2f} - {high:.2f})"
        )
    if "pack.seconds" in figures:
        yield (
            f"pack: {figures['pack.utilisation']:.3%} used, in {figures['pack.seconds']:.3f} s for "
            f"{figures['pack.num_lengths']:,} lengths"
        )
    yield (
        f"machine: {figures['machine.device']}, {figures['machine.processor']}, "
        f"{figures['machine.cores']} cores, {figures['machine.memory_bytes'] / 2**30:.0f} GiB, "
        f"{figures['machine.precision']}, torch {figures['machine.torch']}"
    )
