"""How a run comes to be: processes, machine, rows, model, plan, report."""

import gc
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import lightning as L
import torch

from src import phases, signals
from src.data.blocks import choose_block_size
from src.data.datamodule import ChatDataModule, open_data
from src.errors import UserError
from src.files import atomic
from src.model.device import choose_device
from src.training import finished, kept, lock, status
from src.training.config import TrainConfig
from src.training.distributed import choose_devices
from src.training.hparams import Choices
from src.training.launch import Processes
from src.training.machine import Machine, decide, keep_freed_memory
from src.training.memory import TrainingStep, check_memory
from src.training.model import build_model
from src.training.objective import Objective
from src.training.optimizer import check_schedule
from src.training.origin import Origin, check_length, check_settings, origin_of
from src.training.place import find_place
from src.training.plan import Plan, choose_batching
from src.training.preflight import preflight_report, preflight_warnings
from src.training.provenance import note_end, note_start
from src.training.record import RECORD, is_finished, read_machine, read_record
from src.training.resume import (
    as_decided,
    check_size,
    finished_lines,
    hold,
    refuse_used,
    write_record,
)
from src.training.run import Run, StepTooLarge
from src.training.validation import as_recorded
from src.training.wandb_logger import check_logger

log = logging.getLogger(__name__)
for library in ("lightning.pytorch", "lightning.fabric"):  # our report says it better
    logging.getLogger(library).setLevel(logging.WARNING)


def start_run(
    config: TrainConfig,
    objective: Callable[[TrainConfig], Objective],
    run_folder: Path,
    overrides: list[str],
    joining: Sequence[str] = (),
    choices: Choices | None = None,
) -> int | None:
    """Train, validate, test and write ``metrics.json`` and ``model/`` into ``run_folder``.

    Args:
        config: the whole run.
        objective: makes what is learned of ``config``.
        run_folder: where it goes; if it holds a run, that run goes on.
        overrides: the command line that ``config`` came from, to find it again.
        joining: the command line with which other processes take part.
        choices: the defaults of ``config``, and what a sweep changes in it; for TensorBoard.

    Returns:
        The number of the signal that stopped the run early, or None.

    Raises:
        UserError: for what a person can mend.
    """
    phases.take()
    signals.at_end(atomic.discard)
    if find_place().rank:
        return _start_run(config, objective, run_folder, overrides, joining, choices)
    if config.resume is None:
        refuse_used(run_folder)
    elif is_finished(run_folder):
        lock.clear(run_folder)
        finished.sweep([run_folder])
        for line in finished_lines(run_folder):
            log.info(line)
        return None
    finished.sweep(finished.siblings(run_folder))
    hold(run_folder)
    status.write_begin(run_folder)
    try:
        stopped_by = _start_run(config, objective, run_folder, overrides, joining, choices)
    except BaseException as error:
        status.write_error(run_folder, error)
        raise
    else:
        status.write_end(run_folder, stopped_by)
        return stopped_by
    finally:
        note_end(run_folder)
        lock.release(run_folder)


def _start_run(
    config: TrainConfig,
    objective: Callable[[TrainConfig], Objective],
    run_folder: Path,
    overrides: list[str],
    joining: Sequence[str],
    choices: Choices | None,
) -> int | None:
    recorded = read_machine(run_folder)
    if config.resume is not None:
        config = as_decided(config, recorded)
        if (run_folder / RECORD).exists():  # not of a run that its sweep begins now
            config = as_recorded(config, read_record(run_folder).settings)
        check_size(config, run_folder)
    device = choose_device(config.trainer.accelerator, "trainer.accelerator").type
    num_devices = choose_devices(
        config.trainer, config.batch_size, device, find_place(), recorded.get("devices")
    )
    with Processes(num_devices) as processes:
        machine = decide(config, processes.place)
        run = prepare(config, objective(config), machine, run_folder, overrides, choices)
        processes.start(joining)
        try:
            stopped_by = run.execute()
        except StepTooLarge as error:
            half = error.micro_batch_size // 2
            # Logged as text, so that no log record holds the frames that fill the device.
            log.warning("warning: %s: starting again with micro_batch_size=%d", str(error), half)
        else:
            if stopped_by is not None:
                processes.kill()
            return stopped_by
    del run  # all that it has on the device
    gc.collect()
    torch.cuda.empty_cache()
    (run_folder / RECORD).unlink(missing_ok=True)
    smaller = replace(config, micro_batch_size=half)
    overrides = [*overrides, f"micro_batch_size={half}"]
    return _start_run(smaller, objective, run_folder, overrides, joining, choices)


def prepare(
    config: TrainConfig,
    objective: Objective,
    machine: Machine,
    run_folder: Path,
    overrides: list[str],
    choices: Choices | None = None,
) -> Run:
    """Return the run, ready to start, and say what will happen.

    Raises:
        UserError: for what a person can mend.
    """
    L.seed_everything(config.seed, verbose=False)
    if machine.device == "cpu":
        keep_freed_memory()
    check_logger(config.logger)
    with phases.phase("data"):
        source, tokenizer = open_data(
            config.data, config.model.tokenizer, config.model.vocab_size, objective.reader
        )
    origin = origin_of(config, run_folder)
    check_settings(origin, config)
    with phases.phase("model"):
        model = build_model(config, tokenizer, origin, objective.learner)
    max_length = model.config.n_positions
    block_size = choose_block_size(config.data.block_size, max_length)
    step = objective.step(TrainingStep.of(config, machine, model.config, block_size))
    batching = choose_batching(config, machine, step, read_machine(run_folder))
    step = replace(step, accumulates=batching.num_micro_batches > 1)
    memory_warnings = check_memory(
        step, batching.micro_batch_size, machine.memory, machine.is_limited
    )
    data = objective.data(
        tokenizer, source, block_size=block_size, max_length=max_length, batching=batching
    )
    with phases.phase("data"):
        data.setup()
    if not len(data.splits["train"]):
        raise UserError(f"no training example fits into data.block_size={block_size}: raise it")
    data.batching = batching.cut_for(len(data.splits["train"]))
    step = replace(
        step, block_size=data.block_size, accumulates=data.batching.num_micro_batches > 1
    )
    check_schedule(config.optimizer, data.num_steps)
    check_length(origin, data.num_steps)
    plan = Plan.of(config, machine, data, step)
    most = {"validation": plan.validations.max_blocks, "test": config.trainer.max_test_blocks}
    data.limits = most
    _write_down(config, data, plan, run_folder, overrides, origin)
    due = objective.describe_targets(data.splits["train"])
    for line in preflight_report(config, data, plan, due, run_folder, origin):
        log.info(line)
    for warning in [*preflight_warnings(config, data, plan), *memory_warnings]:
        log.warning("warning: %s", warning)
    return Run(config, objective, data, model, plan, run_folder, origin, choices)


def _write_down(
    config: TrainConfig,
    data: ChatDataModule,
    plan: Plan,
    run_folder: Path,
    overrides: list[str],
    origin: Origin | None,
) -> None:
    """Write what begins, on rank 0; the weights are drawn, so the others draw for themselves."""
    if rank := plan.machine.place.rank:
        L.seed_everything((config.seed + rank) % 2**32, verbose=False)
        return
    lock.sweep(run_folder)
    kept.sweep(run_folder)
    is_new = not (run_folder / RECORD).exists()
    write_record(run_folder, config, data, plan, overrides, origin.facts() if origin else {})
    note_start(run_folder, overrides, is_new)
