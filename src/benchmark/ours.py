"""Our training, as ``python -m src.train`` runs it, and the same step in a bare PyTorch loop."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.amp import GradScaler

from src.benchmark.config import BenchmarkConfig
from src.benchmark.inputs import ENDLESS, open_data_module
from src.benchmark.loop import loaded_steps, train_in_loop
from src.benchmark.stopwatch import Stopwatch
from src.benchmark.turns import Job
from src.data.batch import Batch
from src.data.tokenizer import load_tokenizer
from src.objectives.sft import SFT
from src.training.checkpoints import at_step_boundary
from src.training.machine import decide, keep_freed_memory
from src.training.memory import TrainingStep
from src.training.model import build_model
from src.training.module import TrainingModule
from src.training.objective import Objective
from src.training.place import find_place
from src.training.plan import choose_batching
from src.training.start import prepare


def train_ours(job: Job, stopwatch: Stopwatch, follows: bool = True) -> None:
    """Train with our module, data, callbacks and Lightning's Trainer.

    ``follows``: its threads leave a busy core to the program that keeps it busy.
    """
    laps = Laps(stopwatch, lambda batch: batch["num_tokens"])
    train_with(SFT(job.config), job.config, job.folder, laps, follows)


def train_with(
    objective: Objective,
    config: BenchmarkConfig,
    folder: Path,
    laps: "Laps",
    follows: bool = True,
) -> None:
    """Train what ``objective`` is, in ``folder``; ``follows`` as in ``train_ours``."""
    machine = decide(config, find_place())
    torch.set_num_threads(machine.threads)
    run = prepare(config, objective, machine, folder, [])
    trainer: Any = run.trainer
    trainer.callbacks.append(laps)
    with run.beside_others() if follows else nullcontext():
        run.fit()


class Laps(L.Callback):
    """Tells a stopwatch of laps and what they got through.

    Args:
        stopwatch: the clock.
        count: what a micro-batch gets through.
        num_steps: optimizer steps of a lap.
        num_passes: times that a lap goes over what it gets through.
    """

    def __init__(
        self,
        stopwatch: Stopwatch,
        count: Callable[[Any], int],
        num_steps: int = 1,
        num_passes: int = 1,
    ):
        self.stopwatch = stopwatch
        self.count = count
        self.num_steps, self.num_passes = num_steps, num_passes
        self.amount = 0

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Start the clock."""
        assert isinstance(module, TrainingModule)
        self.stopwatch.begin(module.model)

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        """Count this micro-batch; a step ends with its last one."""
        self.amount += self.count(batch)
        if at_step_boundary(trainer) and trainer.global_step % self.num_steps == 0:
            amount, self.amount = self.amount, 0
            self.stopwatch.lap(amount // self.num_passes)


def train_bare_loop(job: Job, stopwatch: Stopwatch) -> None:
    """Call the same module's hooks in a plain loop: no Trainer, no callbacks, no logger."""
    config, device = job.config, job.device
    if device.type == "cpu":
        keep_freed_memory()
    model = build_model(config, load_tokenizer(config.model_folder))
    machine = decide(config, find_place())
    torch.set_num_threads(machine.threads)
    step = TrainingStep.of(config, machine, model.config, config.block_size)
    micro = choose_batching(config, machine, step, {}).micro_batch_size
    data = open_data_module(config, micro)
    module = SFT(config).module(model, ENDLESS).to(device)
    # What the data and the module ask of a Trainer.
    trainer: Any = SimpleNamespace(
        global_rank=0,
        world_size=1,
        precision_plugin=SimpleNamespace(),
        strategy=SimpleNamespace(root_device=device),
    )
    data.trainer = module.trainer = trainer
    loader = data.train_dataloader()
    trainer.accumulate_grad_batches = loader.batches.accumulate
    configured: Any = module.configure_optimizers()
    optimizer, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    if config.trainer.compile:
        model.compile()
    module.train()

    def loss_of(batch: Batch) -> Tensor:
        batch = module.transfer_batch_to_device(batch, device, 0)
        return module.training_step(batch, 0) / trainer.accumulate_grad_batches

    def before_step(scaler: GradScaler) -> None:
        trainer.precision_plugin.scaler = scaler
        module.configure_gradient_clipping(optimizer)

    optimizer.register_step_post_hook(lambda *_: schedule.step())
    steps = loaded_steps(loader)
    train_in_loop(job, stopwatch, model, optimizer, steps, loss_of, before_step)
