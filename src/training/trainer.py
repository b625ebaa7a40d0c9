"""Lightning's Trainer for a plan: which engine shares the step among the devices."""

import shutil
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import lightning as L
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    TorchElasticEnvironment,
)
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from tensorboard.summary.writer.event_file_writer import _AsyncWriterThread

from src.training.checkpoint_file import AtomicCheckpointIO
from src.training.checkpoints import saved_step
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

TENSORBOARD = "tensorboard"  # in the run folder


class OneFileLogger(TensorBoardLogger):
    """Writes one event file from the run's beginning to its end.

    Lightning would close it after each of validate, fit and test, and begin another. TensorBoard
    may read two files that began in one second in the wrong order, and drop the earlier one.
    """

    def save(self) -> None:
        """Flush; Lightning would write an empty file of hyperparameters, too."""
        self.experiment.flush()

    def finalize(self, status: str) -> None:
        """Flush; whoever owns the run closes it."""
        with _after_an_error():
            self.experiment.flush()

    def close(self) -> None:
        """Write what is left, and end."""
        with _after_an_error():
            self.experiment.close()


@contextmanager
def _after_an_error() -> Iterator[None]:
    """Let the error that ends a run be the one that is told, where a full disk is met twice."""
    is_under_way = sys.exception() is not None
    try:
        yield
    except OSError:
        if not is_under_way:
            raise


def _leave_to_the_writer(failure: threading.ExceptHookArgs) -> None:
    """Print no traceback of TensorBoard's thread: its writer raises the error where it is used."""
    if not isinstance(failure.thread, _AsyncWriterThread):
        threading.__excepthook__(failure)


def open_logger(run_folder: Path, checkpoint: Path | None, rank: int) -> OneFileLogger:
    """Return the logger of a run, which goes on from ``checkpoint`` or begins.

    Without a checkpoint the run begins, and what an earlier beginning has logged is removed.
    """
    threading.excepthook = _leave_to_the_writer
    if checkpoint is None and rank == 0:
        shutil.rmtree(run_folder / TENSORBOARD, ignore_errors=True)
    # What was logged after the checkpoint will be logged again: TensorBoard drops the first.
    purge_step = saved_step(checkpoint) + 1 if checkpoint else 0
    return OneFileLogger(
        run_folder,
        name="",
        version=TENSORBOARD,
        default_hp_metric=False,
        purge_step=purge_step,
    )


def build_trainer(
    plan: Plan,
    logger: OneFileLogger,
    *,
    callbacks: Sequence[L.Callback],
    validates: bool,
    deterministic: bool,
) -> L.Trainer:
    """Return a Trainer for which the whole run is one long epoch of micro-batches."""
    machine, place = plan.machine, plan.machine.place
    return L.Trainer(
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
        logger=logger,
        callbacks=list(callbacks),
        plugins=[AtomicCheckpointIO(), _environment(place.world_size)],
        profiler=NoProfiler(),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


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
