"""Lightning's Trainer for a plan: which engine shares the step among the devices."""

import warnings
from collections.abc import Sequence
from typing import Any

import lightning as L
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    TorchElasticEnvironment,
)
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy

from src.training.checkpoint_file import AtomicCheckpointIO
from src.training.plan import Plan
from src.training.profiler import NoProfiler

# A batch is cut from memory maps in microseconds: to score one, workers would only cost.
warnings.filterwarnings(
    "ignore",
    r"The '(val|test)_dataloader' does not have many workers",
    category=PossibleUserWarning,
)
# How Lightning 2.6.6 asks torch 2.13 for a leaf; nothing of ours can ask otherwise.
warnings.filterwarnings(
    "ignore",
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    category=FutureWarning,
    module=r"lightning\.pytorch\.utilities\._pytree",
)


def build_trainer(
    plan: Plan,
    loggers: Sequence[Logger],
    *,
    callbacks: Sequence[L.Callback],
    validates: bool,
    deterministic: bool,
) -> L.Trainer:
    """Return a Trainer for which the whole run is one long epoch of micro-batches."""
    machine, place = plan.machine, plan.machine.place
    trainer = L.Trainer(
        accelerator=machine.device,
        devices=place.local_size,
        num_nodes=place.num_nodes,
        strategy=_strategy(machine.strategy, place.world_size),
        precision=machine.precision,
        deterministic=deterministic,
        max_epochs=1,
        accumulate_grad_batches=plan.batching.num_micro_batches,
        val_check_interval=plan.val_every_n_steps * plan.batching.num_micro_batches,
        check_val_every_n_epoch=None,
        limit_val_batches=1.0 if validates else 0,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        logger=list(loggers),
        callbacks=list(callbacks),
        plugins=[AtomicCheckpointIO(), _environment(place.world_size)],
        profiler=NoProfiler(),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    signals: Any = trainer._signal_connector
    signals.register_signal_handlers = lambda: None  # ours are in src.signals
    return trainer


def _strategy(name: str, world_size: int) -> Strategy | str:
    if name == "fsdp":
        return ModelParallelStrategy(
            data_parallel_size=world_size,
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,  # one file, whole, as with the others
        )
    return DDPStrategy(gradient_as_bucket_view=True) if name == "ddp" else "auto"


def _environment(world_size: int) -> ClusterEnvironment:
    """Return where Lightning reads this process's place, so that it does not guess."""
    return LightningEnvironment() if world_size == 1 else TorchElasticEnvironment()
