"""How a run is found again, and which of its settings may not change when it goes on.

``run.json`` in the run folder (see ``record``) holds the settings it was started with, and what
was chosen for the machine. It is written once; a resumed run reads it and changes nothing.
"""

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from src import signals
from src.data.datamodule import ChatDataModule
from src.errors import UserError
from src.files import atomic
from src.model.footprint import FLOAT32, num_parameters
from src.streams import say
from src.training import finished, lock, slurm
from src.training.config import AUTO, TrainConfig
from src.training.machine import choose_precision
from src.training.plan import Plan
from src.training.record import METRICS, RECORD, RESULTS, is_finished, read_record
from src.training.status import read_status
from src.wording.command_line import command, grammatical, unquoted
from src.wording.nearest import path_question

# What may change when a run goes on: nothing that the weights or the figures depend on, but for
# the order in which numbers are added up.
MAY_CHANGE = (
    "resume",
    "logger",
    "sample_prompts",
    "generation.",
    "data.corpus_dir",
    "data.num_workers",
    "micro_batch_size",
    "device",
    "devices",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.precision",  # what is decided of it is compared: precision
    "trainer.threads",  # likewise: threads
    "trainer.log_every_n_steps",
    "trainer.checkpoint_every_n_steps",
    "trainer.keep_every_n_steps",
    "trainer.keep_optimizer",
    "reference",
    "trainer.activation_checkpointing",
)

# Checksums of what the run learns from, and what to do when one is not as it was.
CHANGED = {
    "corpus": "the rows or the tokenizer are not what they were: put them back",
    "packing": "the rows make other blocks than they did: go on with the version that began it",
    "continue_from.": "what it goes on from is not what it was: put it back",
}

log = logging.getLogger(__name__)


def find_run(resume: str, runs: Path) -> Path | None:
    """Return the run folder that ``resume`` means, held by this process: a folder, or ``auto``.

    ``auto`` is the newest run that has not finished and that no process is at; None if there is
    none. What it passes over for another reason, it says on standard error. A folder whose run is
    finished is returned without a lock.

    Raises:
        UserError: the folder holds no run, a damaged one, or one that a process is at.
    """
    if resume != AUTO:
        folder = Path(resume).expanduser()
        if not os.path.lexists(folder / RECORD):
            hint = "" if folder.exists() else path_question(resume)
            raise UserError(f"resume={resume}: not a run folder (no {RECORD} in it){hint}")
        read_record(folder)
        if not is_finished(folder):
            hold(folder)
        return folder
    for folder in newest_first(runs):
        if is_finished(folder):
            continue
        try:
            read_record(folder)
            hold(folder)
        except (UserError, OSError) as error:
            say(f"resume=auto: passed over {folder}: {error}", sys.stderr)
            continue
        return folder
    return None


def newest_first(runs: Path) -> list[Path]:
    """Return the folders under ``runs`` that hold a record, or what is left of one."""
    times = {}
    for path in runs.rglob(f"{RECORD[:-1]}[{RECORD[-1]}]"):  # a pattern finds links to nothing too
        try:
            times[path.parent] = path.lstat().st_mtime
        except OSError:  # it has just gone
            continue
    return sorted(times, key=lambda folder: times[folder], reverse=True)


def hold(folder: Path) -> None:
    """Take the lock of a run for this process.

    Raises:
        UserError: another process is at it.
    """
    if not lock.hold(folder):
        raise UserError(f"{folder}: another process is at this run: wait for it, or stop it")


def finished_lines(folder: Path) -> list[str]:
    """Return what to say of a run that is finished, and what can be done with it."""
    status = read_status(folder)
    early = f" ({status.reason})" if status is not None and status.reason else ""
    talk, *others = (folder / name for name in RESULTS)
    scorer = next((other for other in others if other.is_dir()), None)
    return [
        f"{folder} is finished{early}: all figures are in {folder / METRICS}",
        f"its reward model:   {scorer}"
        if scorer
        else f"talk to it:         {command('chat', model_path=talk)}",
        f"train on from it:   {_further(folder, talk)}",
    ]


def _further(folder: Path, model: Path) -> str:
    """Return the command that trains on: a policy, which a reward teaches, begins with weights."""
    try:
        objective = read_record(folder).config.get("objective")
    except UserError:  # of an older version, then, which had no policies
        objective = None
    if not isinstance(objective, Mapping) or "reward_model" not in objective:
        return f"{command('train', continue_from=folder)} max_steps=..."
    return f"{command('train', objective=objective.get('name'), model__pretrained=model)} ..."


def refuse_used(folder: Path) -> None:
    """Check that no run is in ``folder``, where a new one is to begin.

    Raises:
        UserError: one is; says how to go on.
    """
    if (folder / RECORD).exists() or is_finished(folder):
        raise UserError(
            f"{folder} holds a run already: go on with it ({command('train', resume=folder)}), or "
            f"give the new one another folder (leave out hydra.run.dir)"
        )


def resumed_arguments(arguments: list[str], runs: Path) -> list[str] | None:
    """Return the command line that goes on with the run that ``resume=`` names, in its folder.

    The run's own settings are not in it: the job reads them. Return None if no run can go on.

    Raises:
        UserError: there is no such run, or ``-m`` asks for several.
        SystemExit: it is finished; it is said on standard error.
    """
    (resume, *more) = [argument for argument in arguments if argument.startswith("resume=")]
    if more:
        raise UserError(f"{resume} and {more[0]}: name one run")
    if {"-m", "--multirun"} & set(arguments):
        raise UserError(f"{resume} goes on with one run: leave out -m, or resume one after another")
    folder = find_run(unquoted(resume.removeprefix("resume=")), runs)
    if folder is None:
        return None
    for argument in arguments if resume != "resume=auto" else ():
        place = unquoted(argument.removeprefix("hydra.run.dir="))
        if place != argument and Path(place).resolve() != folder.resolve():
            raise UserError(f"{argument}: a run goes on in its own folder, {folder}: leave it out")
    if is_finished(folder):
        lock.clear(folder)
        finished.sweep([folder])
        say("\n".join(finished_lines(folder)), sys.stderr)
        sys.exit()
    signals.say_at_end(f"go on with: {command('train', resume=folder)}")
    # Without an output_subdir Hydra does not touch the .hydra folder of the first start.
    location = [f"{key}={grammatical(folder)}" for key in ("resume", "hydra.run.dir")]
    others = [a for a in arguments if a != resume]
    return [*others, *location, "hydra.output_subdir=null"]


def requeued_run(arguments: list[str], runs: Path) -> Path | None:
    """Return the run that this job of SLURM began, by the same command, before it was queued again.

    None if there is none.
    """
    if not slurm.is_restarted() or {"-m", "--multirun"} & set(arguments):
        return None
    named = [a.removeprefix("hydra.run.dir=") for a in arguments if a.startswith("hydra.run.dir=")]
    typed = tuple(a for a in own_overrides(arguments) if "=" in a)
    for folder in [*(Path(unquoted(name)) for name in named), *newest_first(runs)]:
        try:
            record = read_record(folder)
        except UserError:  # not ours, then
            continue
        # A run that began again with a smaller micro-batch has one override more.
        if record.job == slurm.job() and record.overrides[: len(typed)] == typed:
            return folder
    return None


def own_overrides(overrides: Sequence[str]) -> list[str]:
    """Return those that say what a run is, and not where it is or how it is found."""
    return [o for o in overrides if not o.startswith(("resume=", "sweep=", "hydra", "-"))]


def check_size(config: TrainConfig, run_folder: Path) -> None:
    """Check that the checkpoints can hold the weights of ``config``, before they are made.

    Raises:
        UserError: they are too small by far: the settings are not of this run.
    """
    paths = (run_folder / "checkpoints").glob("*.ckpt")
    sizes = [path.stat().st_size for path in paths if path.is_file()]
    if not sizes or config.model.pretrained is not None or config.lora.rank is not None:
        return
    weights = FLOAT32 * num_parameters(config.model.shape(1))
    if weights > max(sizes):
        raise UserError(
            f"resume={config.resume}: {RECORD} says a model of {weights:,} bytes or more, and the "
            f"checkpoints have {max(sizes):,}: they are not of one run"
        )


def write_record(
    run_folder: Path,
    config: TrainConfig,
    data: ChatDataModule,
    plan: Plan,
    overrides: list[str],
    origin: dict[str, Any],
) -> None:
    """Write ``run.json`` for a new run; for one that goes on, check that it is the same run.

    Raises:
        UserError: a setting, the rows or their blocks are not what they were; says which.
    """
    checksums = {"corpus": data.key, "packing": data.splits["train"].packing.checksum}
    settings = plan.settings(config) | checksums | origin
    if not (run_folder / RECORD).exists():
        asked = asdict(config)
        record = {
            "overrides": own_overrides(overrides),  # for people; never composed again
            "machine": plan.choices,
            "settings": settings,
            # Of the benchmark's config, what is ours.
            "config": {field.name: asked[field.name] for field in fields(TrainConfig)},
            "job": slurm.job(),
        }
        atomic.write_json(run_folder / RECORD, record)
        return
    before = read_record(run_folder).settings
    for key, value in settings.items():
        # An older version may have recorded fewer settings.
        if key.startswith(MAY_CHANGE) or _same(key, before.get(key, value), value):
            continue
        if what := next((text for name, text in CHANGED.items() if key.startswith(name)), None):
            raise UserError(f"resume={config.resume}: {what}, or start a new run")
        if key == "threads" or (key == "precision" and not _is_possible(before[key], config, plan)):
            log.warning("warning: that run had %s=%s; %s rounds otherwise", key, before[key], value)
            continue
        raise UserError(
            f"resume={config.resume}: that run had {key}={before.get(key)}, not {value}; leave it "
            f"as it was, or start a new run"
        )


def _same(key: str, before: Any, value: Any) -> bool:
    if key == "trainer.strategy":  # FSDP saves the optimizer in an order of its own
        return (before == "fsdp") == (value == "fsdp")
    return bool(before == value)


def _is_possible(precision: Any, config: TrainConfig, plan: Plan) -> bool:
    try:
        choose_precision(replace(config.trainer, precision=precision), plan.machine.device)
    except (UserError, ValueError):
        return False
    return True
