"""One training run, from its config to its summary."""

import gc
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import lightning as L
import torch

from src import atomic
from src.data.datamodule import ChatDataModule, open_data
from src.data.order import micro_batch_size
from src.errors import UserError
from src.model.device import choose_device, compute_capability
from src.model.gpt2 import GPT2
from src.model.pretrained import load_pretrained
from src.training.best import BestModel
from src.training.checkpoints import Checkpoints, find_checkpoint
from src.training.config import AUTO, TrainConfig
from src.training.distributed import choose_devices, choose_strategy, load_whole
from src.training.hardware import (
    choose_micro_batch_size,
    choose_precision,
    device_memory,
    keep_freed_memory,
)
from src.training.interruption import Interrupted, Interruption
from src.training.launch import Processes
from src.training.log import TrainingLog
from src.training.lora import has_adapters
from src.training.memory import TrainingStep, check_memory
from src.training.model import build_model
from src.training.optimizer import check_schedule
from src.training.place import find_place
from src.training.preflight import Plan, preflight_report, preflight_warnings
from src.training.progress import Progress
from src.training.replies import SampleReplies
from src.training.resume import flat, forget, quoted, read_machine, write_record
from src.training.sft import SFTModule
from src.training.showcase import Showcase
from src.training.summary import summary
from src.training.trainer import build_trainer

# What TensorBoard's table of runs compares.
FINAL_FIGURES = ("best_val/loss", "best_val/accuracy", "test/loss", "test/accuracy")

log = logging.getLogger(__name__)
for library in ("lightning.pytorch", "lightning.fabric"):  # our report says it better
    logging.getLogger(library).setLevel(logging.WARNING)


def train(
    config: TrainConfig, run_folder: Path, overrides: list[str], joining: Sequence[str] = ()
) -> int | None:
    """Train, validate, test and write ``metrics.json`` and ``model/`` into ``run_folder``.

    Args:
        config: the whole run.
        run_folder: where it goes; if it holds a run, that run goes on.
        overrides: the command line that ``config`` came from, to find it again.
        joining: the command line with which other processes take part.

    Returns:
        The number of the signal that stopped the run early, or None.

    Raises:
        UserError: for what a person can mend.
    """
    device = choose_device(config.trainer.accelerator, "trainer.accelerator").type
    recorded = read_machine(run_folder).get("devices")
    config.trainer.devices = choose_devices(
        config.trainer, config.batch_size, device, find_place(), recorded
    )
    with Processes(config.trainer.devices) as processes:
        run = prepare(config, run_folder, overrides)
        processes.start(joining)
        try:
            stopped_by = run.execute()
        except StepTooLarge as error:
            half = error.micro_batch_size // 2
            # As text: a record that is kept would keep what fills the device.
            log.warning("warning: %s: starting again with micro_batch_size=%d", str(error), half)
        else:
            if stopped_by is not None:
                processes.kill()
            return stopped_by
    del run  # all that it has on the device
    gc.collect()
    torch.cuda.empty_cache()
    forget(run_folder)
    return train(replace(config, micro_batch_size=half), run_folder, overrides)


def prepare(config: TrainConfig, run_folder: Path, overrides: list[str]) -> "Run":
    """Return the run, ready to start, and say what will happen.

    Args:
        config: the whole run.
        run_folder: where it goes; if it holds a run, that run goes on.
        overrides: the command line that ``config`` came from, to find it again.

    Raises:
        UserError: for what a person can mend.
    """
    place = find_place()
    L.seed_everything(config.seed, verbose=False)
    device = choose_device(config.trainer.accelerator, "trainer.accelerator").type
    if device == "cpu":
        keep_freed_memory()
    precision = choose_precision(config.trainer, device)
    strategy = choose_strategy(config.trainer, precision, place.world_size)
    source, tokenizer = open_data(config.data, config.model.tokenizer, config.model.vocab_size)
    model = build_model(config, tokenizer)
    config.data.block_size = config.data.block_size or model.config.n_positions
    num_shards = place.world_size if strategy == "fsdp" else 1
    capability = compute_capability(device)
    step = TrainingStep.of(config, model.config, device, capability, precision, num_shards)
    memory = device_memory(device, place.local_size)
    if config.micro_batch_size == AUTO:  # a run that goes on cuts its batches as it did
        recorded = read_machine(run_folder).get("micro_batch_size")
        config.micro_batch_size = recorded or choose_micro_batch_size(step, memory)
    micro = micro_batch_size(config.batch_size, place.world_size, config.micro_batch_size)
    step = replace(step, accumulates=micro * place.world_size < config.batch_size)
    memory_warnings = check_memory(step, micro, memory)
    data = ChatDataModule(
        config.data,
        tokenizer,
        source,
        batch_size=config.batch_size,
        micro_batch_size=micro,
        num_steps=config.max_steps,
        seed=config.seed,
    )
    data.setup()
    if not len(data.splits["train"]):
        raise UserError(
            f"no training example fits into data.block_size={config.data.block_size}: raise it"
        )
    data.num_steps = config.max_steps or config.max_epochs * data.steps_per_epoch
    check_schedule(config.optimizer, data.num_steps)
    plan = Plan(
        device=device,
        precision=precision,
        strategy=strategy,
        place=place,
        micro_batch_size=micro,
        num_micro_batches=config.batch_size // place.world_size // micro,
        num_steps=data.num_steps,
        val_every_n_steps=config.trainer.val_every_n_steps or max(1, data.num_steps // 10),
        step=step.on(data.splits["train"]),
        device_memory=memory,
    )
    machine = {
        "device": device,
        "devices": place.local_size,
        "precision": precision,
        "micro_batch_size": micro,
    }
    if place.rank == 0:
        packing = data.splits["train"].packing.checksum
        write_record(
            run_folder, config, {"corpus": data.key, "packing": packing}, machine, overrides
        )
    else:
        # The weights are drawn; from here on each rank draws for itself.
        L.seed_everything((config.seed + place.rank) % 2**32, verbose=False)
    for line in preflight_report(config, data, plan, run_folder):
        log.info(line)
    for warning in [*preflight_warnings(config, data), *memory_warnings]:
        log.warning("warning: %s", warning)
    return Run(config, data, model, plan, run_folder)


class StepTooLarge(Exception):
    """The first step of a new run ran out of memory, and its micro-batch can be cut in two."""

    def __init__(self, device: str, micro_batch_size: int):
        super().__init__(f"{device} ran out of memory with micro_batch_size={micro_batch_size}")
        self.micro_batch_size = micro_batch_size


class Run:
    """The parts of one run, wired together."""

    def __init__(
        self,
        config: TrainConfig,
        data: ChatDataModule,
        model: GPT2,
        plan: Plan,
        run_folder: Path,
    ):
        self.config, self.data, self.plan, self.folder = config, data, plan, run_folder
        if config.trainer.compile:
            model.compile()
        self.module = SFTModule(
            model,
            config.optimizer,
            num_steps=plan.num_steps,
            log_every_n_steps=config.trainer.log_every_n_steps,
        )
        self.training_log = TrainingLog()
        self.sample_replies = SampleReplies(
            config.sample_prompts, data.tokenizer, config.generation
        )
        self.best = BestModel(run_folder / "model", data.tokenizer, config.generation)
        self.checkpoints = Checkpoints(
            run_folder,
            config.trainer.checkpoint_every_n_steps,
            plan.val_every_n_steps if self.has("validation") else None,
        )
        self.interruption = Interruption(self.checkpoints)
        self.showcase = Showcase(data, config, run_folder)
        self.checkpoint = find_checkpoint(run_folder) if config.resume else None
        # Order matters: a checkpoint holds what the callbacks before it have counted.
        watching = [self.training_log, Progress(), self.sample_replies, self.best]
        self.trainer = build_trainer(
            plan,
            run_folder,
            self.checkpoint,
            callbacks=[*watching, self.checkpoints, self.interruption],
            validates=self.has("validation"),
            deterministic=config.trainer.deterministic,
        )

    def has(self, split: str) -> bool:
        """Whether a split has any blocks."""
        return len(self.data.splits[split]) > 0

    def execute(self) -> int | None:
        """Fit, validate, test, write down; return the signal that stopped it, if one did.

        Raises:
            StepTooLarge: there was no room for the first step of a new run.
            UserError: for what a person can mend.
        """
        try:
            with self.interruption:
                self._execute()
        except Interrupted as stop:
            log.info("go on with: python -m src.train resume=%s", quoted(self.folder))
            return stop.signal.value
        except torch.OutOfMemoryError as error:
            too_large = StepTooLarge(self.plan.device, self.plan.micro_batch_size)
            if not self._can_start_again():
                raise UserError(
                    f"{too_large}: resume with trainer.activation_checkpointing=true, "
                    f"or start a new run with a lower one, or with a lower data.block_size"
                ) from error
        except UserError:
            if self.plan.place.rank:  # all ranks have it, and rank 0 says it
                sys.exit(2)
            raise
        else:
            return None
        finally:
            self.trainer.logger.experiment.close()
        raise too_large  # out here, where it holds none of the frames that fill the device

    def _can_start_again(self) -> bool:
        """Whether nothing is lost yet; several processes may be at different places."""
        is_new = self.checkpoint is None and self.trainer.global_step == 0
        return is_new and self.plan.place.world_size == 1 and self.plan.micro_batch_size > 1

    def _execute(self) -> None:
        if self.checkpoint is None:
            if self.plan.place.rank == 0:
                self.showcase.ask_before(self.module.model)
            self._validate()  # what the base model knows
        self.fit()
        if self.best.seen_step != self.trainer.global_step:
            self._validate()
        self._finish(dict(self.module.latest))

    def fit(self) -> None:
        """Train, from where an interrupted run stood."""
        self.trainer.fit(self.module, self.data, ckpt_path=self.checkpoint, weights_only=True)

    def _validate(self) -> None:
        if self.has("validation"):
            self.trainer.validate(self.module, self.data, verbose=False)
        else:
            self.best.write(self.module)
            self.sample_replies.ask(self.trainer, self.module)

    def _finish(self, last: dict[str, float]) -> None:
        """Score the best weights once, write ``metrics.json``, and say how it went."""
        self.trainer.strategy.barrier()  # rank 0 has written them
        best = load_pretrained(str(self.best.folder))
        if has_adapters(self.module.model):
            self.module.model = best  # with the adapters in its weights
        else:
            load_whole(self.module.model, best.state_dict())
        if self.has("test"):
            self.trainer.test(self.module, self.data, verbose=False)
        if self.plan.place.rank:
            return
        metrics: dict[str, Any] = {k: v for k, v in last.items() if k.startswith("val/")}
        metrics |= {f"best_{k}": v for k, v in self.best.best.items()}
        metrics |= {k: v for k, v in self.module.latest.items() if k.startswith("test/")}
        metrics |= {
            "num_steps": self.plan.num_steps,
            "train_seconds": self.training_log.train_seconds,
            "real_tokens_per_second": self.training_log.tokens_per_second,
            "utilisation": self.data.splits["train"].utilisation,
            "num_parameters": best.num_parameters,
        }
        metrics |= self.showcase.score(best)
        atomic.write_json(self.folder / "metrics.json", metrics)
        self.trainer.logger.log_hyperparams(
            _shown(asdict(self.config)),
            {f"final/{key}": metrics[key] for key in FINAL_FIGURES if key in metrics},
        )
        self.showcase.show()
        for line in summary(metrics, self.folder):
            log.info(line)


def _shown(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that TensorBoard's table of runs can hold, under dotted names."""
    return {k: v for k, v in flat(settings).items() if isinstance(v, (int, float, str, bool))}
