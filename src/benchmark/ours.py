"""Our training, as ``python -m src.train`` runs it, and the same step in a bare PyTorch loop."""

from types import SimpleNamespace
from typing import Any

import lightning as L
import torch

from src.benchmark.inputs import ENDLESS, open_blocks
from src.benchmark.stopwatch import Stopwatch
from src.benchmark.workers import Job
from src.data.tokenizer import load_tokenizer
from src.model.device import compute_capability
from src.training.checkpoints import at_step_boundary
from src.training.hardware import choose_micro_batch_size, device_memory, keep_freed_memory
from src.training.memory import TrainingStep
from src.training.model import build_model
from src.training.run import prepare
from src.training.sft import SFTModule


def train(job: Job, stopwatch: Stopwatch) -> None:
    """Train with our module, data, callbacks and Lightning's Trainer."""
    run = prepare(job.config, job.folder, [])
    run.trainer.callbacks.append(Laps(stopwatch))
    run.fit()


class Laps(L.Callback):
    """Tells a stopwatch of every optimizer step and its real tokens."""

    def __init__(self, stopwatch: Stopwatch):
        self.stopwatch = stopwatch
        self.num_tokens = 0

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Start the clock."""
        self.stopwatch.begin(module.model)

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        """Count this micro-batch; a step ends with its last one."""
        self.num_tokens += batch["num_tokens"]
        if at_step_boundary(trainer):
            num_tokens, self.num_tokens = self.num_tokens, 0
            self.stopwatch.lap(num_tokens)


def train_bare_loop(job: Job, stopwatch: Stopwatch) -> None:
    """Call the same module's hooks in a loop of our own: no Trainer, no callbacks, no logger."""
    config, device = job.config, job.device
    if device.type == "cpu":
        keep_freed_memory()
    model = build_model(config, load_tokenizer(config.model.tokenizer))
    micro = config.micro_batch_size
    if not isinstance(micro, int):
        capability = compute_capability(device.type)
        step = TrainingStep.of(config, model.config, device.type, capability, job.precision)
        micro = choose_micro_batch_size(step, device_memory(device.type))
    data = open_blocks(config, packing=True, batch_size=config.batch_size, micro_batch_size=micro)
    module = SFTModule(
        model,
        config.optimizer,
        num_steps=ENDLESS,
        log_every_n_steps=config.trainer.log_every_n_steps,
    ).to(device)
    scaler = torch.amp.GradScaler(device.type, enabled=job.precision == "16-mixed")
    # What the data and the module ask of a Trainer.
    data.trainer = module.trainer = SimpleNamespace(
        global_rank=0,
        world_size=1,
        precision_plugin=SimpleNamespace(scaler=scaler),
        strategy=SimpleNamespace(root_device=device),
    )
    batches = data.train_dataloader()
    accumulate = module.trainer.accumulate_grad_batches = batches.batches.accumulate
    configured = module.configure_optimizers()
    optimizer, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    if config.trainer.compile:
        model.compile()
    module.train()
    num_tokens = 0
    stopwatch.begin(model)
    for index, batch in enumerate(batches):
        num_tokens += batch["num_tokens"]
        batch = module.transfer_batch_to_device(batch, device, 0)
        with autocast(job):
            loss = module.training_step(batch, index) / accumulate
        scaler.scale(loss).backward()
        if (index + 1) % accumulate:
            continue
        module.configure_gradient_clipping(optimizer)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        schedule.step()
        stopwatch.lap(num_tokens)
        num_tokens = 0


def autocast(job: Job) -> torch.autocast:
    """Return the autocast that the job's precision asks for; in full precision it does nothing."""
    dtype = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(job.precision)
    return torch.autocast(job.device.type, dtype=dtype, enabled=dtype is not None)
