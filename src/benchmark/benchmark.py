"""One run of the benchmark, from its config to ``benchmark.json``."""

import logging
import shutil
from dataclasses import fields, replace
from pathlib import Path

import torch
from rich.console import Console

from src import atomic
from src.benchmark import variants
from src.benchmark.config import BenchmarkConfig
from src.benchmark.inputs import open_blocks, write_inputs
from src.benchmark.learn import (
    equal_settings,
    held_out_loss,
    learning_figures,
    measure_learning,
    pupils,
    show_learning,
    write_held_out,
)
from src.benchmark.machine import describe, matmul_peak, needed_flops_per_token
from src.benchmark.picture import draw
from src.benchmark.prepare import NUM_LENGTHS, measure_packing
from src.benchmark.report import Figures, figures_of, lightning_figures, ratios_of, show
from src.benchmark.rounds import Measured, measure
from src.benchmark.scale import measure_preparation, measure_training, show_scale
from src.benchmark.variants import NAMES
from src.benchmark.workers import Job, Variant
from src.data.sources import open_source
from src.errors import UserError
from src.model.device import choose_device
from src.training.config import AUTO, TrainConfig
from src.training.hardware import choose_precision

log = logging.getLogger(__name__)


def benchmark(config: BenchmarkConfig, run_folder: Path) -> Figures:
    """Measure, write ``benchmark.json`` and ``benchmark.png`` into ``run_folder``, and show.

    Raises:
        UserError: for what a person can mend.
    """
    return Benchmark(config, run_folder).execute()


def training_values(config: BenchmarkConfig, device: torch.device) -> TrainConfig:
    """Return what of ``config`` ours is trained with, the batch size chosen for ``device``."""
    given = {field.name: getattr(config, field.name) for field in fields(TrainConfig)}
    if config.batch_size == AUTO:
        on_cpu = device.type == "cpu"
        given["batch_size"] = config.cpu_batch_size if on_cpu else config.gpu_batch_size
    return TrainConfig(**given)


class Benchmark:
    """The parts of one run, one after another."""

    def __init__(self, config: BenchmarkConfig, run_folder: Path):
        self.config, self.folder = config, run_folder
        self.device = choose_device(config.trainer.accelerator, "trainer.accelerator")
        self.precision = choose_precision(config.trainer, self.device.type)
        self.work = run_folder / "work"
        self.figures: Figures = {"what": config.what}

    def execute(self) -> Figures:
        """Measure every part that was asked for."""
        measures = {
            "train": self._train,
            "prepare": self._prepare,
            "pack": self._pack,
            "generate": self._generate,
            "scale": self._scale,
            "learn": self._learn,
        }
        facts = describe(self.device, self.precision)
        self.figures |= {f"machine.{name}": value for name, value in facts.items()}
        try:
            self._open_inputs()
            for part in self.config.parts():
                measures[part]()
        except (KeyboardInterrupt, SystemExit):
            log.warning("stopped: nothing is written")
            raise
        finally:
            shutil.rmtree(self.work, ignore_errors=True)
        self._write()
        return self.figures

    def _open_inputs(self) -> None:
        """Write what the variants share, and say what it is."""
        config = self.config
        self.given = training_values(config, self.device)
        self.shared = write_inputs(self.work / "inputs", self.given, config.model, config.num_rows)
        data = open_blocks(self.shared, packing=True, batch_size=1, micro_batch_size=1)
        self.blocks = data.splits["train"]
        if not len(self.blocks):
            raise UserError("no row fits into a block: raise data.block_size")
        self.figures |= {
            "rows.source": config.data.path or "the embedded corpus",
            "rows.num": self.blocks.num_examples,
            "rows.mean_tokens": self.blocks.num_tokens / self.blocks.num_examples,
            "rows.supervised_share": self.blocks.num_labels / self.blocks.num_tokens,
            "rows.block_size": self.blocks.block_size,
            "batch_size": self.shared.batch_size,
        }

    def _job(self, config: TrainConfig) -> Job:
        return Job(config, {}, self.device, self.precision, self.work)

    def _measure(self, part: str, chosen: list[Variant], job: Job) -> dict[str, Measured]:
        asked = [variant for variant in chosen if self.config.has(variant.name)]
        for name in NAMES.get(part, set()) - {variant.name for variant in chosen}:
            if self.config.variants is not None and self.config.has(name):
                log.warning("warning: %s %s left out: needs a GPU", part, name)
        return measure(
            part,
            asked,
            job,
            num_rounds=self.config.repeats,
            seconds=self.config.seconds,
            keep_alive=self.config.keep_alive,
        )

    def _train(self) -> None:
        types = {"fp32": torch.float32, "bf16": torch.bfloat16}
        if self.device.type == "cuda":
            types["fp16"] = torch.float16
        before = {name: matmul_peak(self.device, dtype) for name, dtype in types.items()}
        measured = self._measure("train", variants.training(self.device), self._job(self.shared))
        # Once more: other programs may have been at work the first time.
        peaks = {
            name: max(before[name], matmul_peak(self.device, dtype))
            for name, dtype in types.items()
        }
        self.figures |= {f"machine.matmul_{name}_flops": peak for name, peak in peaks.items()}
        self.figures |= figures_of("train", measured)
        shape = replace(self.shared.model, pretrained=None).shape(self.config.model.vocab_size)
        flops = needed_flops_per_token(shape, self.blocks)
        self.figures["train.needed_flops_per_token"] = flops
        for name, variant in measured.items():
            if variant.repeats:
                share = variant.per_second * flops / max(peaks.values())
                self.figures[f"train.{name}.share_of_matmul_peak"] = share
        self.figures |= ratios_of("train", measured)
        if self.config.has("ours") and self.config.has("bare_loop"):
            tiny = write_inputs(self.work / "tiny", self._tiny(), self.config.tiny, 1024)
            measured = self._measure("lightning", variants.lightning(), self._job(tiny))
            self.figures |= lightning_figures(measured)

    def _tiny(self) -> TrainConfig:
        size = self.config.tiny_block_size
        return replace(self.given, batch_size=1, data=replace(self.given.data, block_size=size))

    def _prepare(self) -> None:
        job = self._job(replace(self.shared, data=self.given.data))
        measured = self._measure("prepare", variants.preparation(), job)
        self.figures |= figures_of("prepare", measured) | ratios_of("prepare", measured)

    def _pack(self) -> None:
        packing = measure_packing() | {"num_lengths": NUM_LENGTHS}
        self.figures |= {f"pack.{name}": value for name, value in packing.items()}

    def _generate(self) -> None:
        measured = self._measure(
            "generate", variants.generation(self.device), self._job(self.shared)
        )
        self.figures |= figures_of("generate", measured) | ratios_of("generate", measured)

    def _scale(self) -> None:
        scale = self.config.scale
        names = scale.cpu_models if self.device.type == "cpu" else scale.gpu_models
        for name in names:
            size = replace(
                self.config.sizes[name], pretrained=None, tokenizer=self.config.model.tokenizer
            )
            folder = self.work / f"scale_{name}"
            shared = write_inputs(folder, self.given, size, self.config.num_rows)
            self.figures |= measure_training(name, self._job(shared), scale)
            shutil.rmtree(folder)
        source = open_source(self.given.data)
        self.figures |= measure_preparation(self._job(self.shared), source, scale)

    def _learn(self) -> None:
        learn = self.config.learn
        data = replace(self.given.data, block_size=learn.block_size)
        given = replace(self.given, data=data, batch_size=learn.batch_size)
        given = equal_settings(given, learn.learning_rate)
        folder = self.work / "learn"
        tiny = replace(self.config.tiny, dropout=0.0)
        shared = write_inputs(folder, given, tiny, learn.num_rows)
        held_out = write_held_out(folder, given, shared)
        rows = open_blocks(shared, packing=True, batch_size=1, micro_batch_size=1)
        num_tokens = round(learn.epochs * rows.splits["train"].num_tokens)
        chosen = [pupil for pupil in pupils(num_tokens) if self.config.has(pupil.name)]
        learnt = measure_learning(self._job(shared), chosen, held_out, learn.seeds)
        before = held_out_loss(Path(shared.model.pretrained), held_out)
        self.figures |= learning_figures(learnt, before)

    def _write(self) -> None:
        atomic.write_json(self.folder / "benchmark.json", self.figures)
        drawn = draw(self.figures, self.folder / "benchmark.png")
        console = Console()
        show_scale(self.figures, console)
        show_learning(self.figures, console)
        show(self.figures, console)
        log.info("all figures:  %s", self.folder / "benchmark.json")
        if drawn:
            log.info("picture:      %s", self.folder / "benchmark.png")
