"""Train: ``python -m src.train [hardware=a100] [data=file data.path=rows.jsonl] ...``."""

import re
import signal
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from src import phases, signals
from src.command.cli import (
    MISTAKES,
    RUNS,
    Stopped,
    as_typed,
    one_line,
    require,
    run_door,
    task_overrides,
    typed,
)
from src.command.overrides import CONF, of_its_objective
from src.errors import UserError
from src.files import disk
from src.files.run_name import check_name
from src.own_function import REWARD
from src.streams import say
from src.sweeps.going_on import refuse_sweep, settings_in_sweep, values_in_sweep
from src.sweeps.grid import may_be_sweep
from src.sweeps.job import join_sweep, run_job, swept
from src.sweeps.launchers import is_in_worker, needed
from src.sweeps.sweeping import sweeping
from src.training.launch import meet
from src.training.place import find_place
from src.wording.command_line import command, grammatical, relative, unquoted
from src.wording.nearest import choice_question

if TYPE_CHECKING:
    from src.training.config import TrainConfig
    from src.training.hparams import Choices
    from src.training.objective import Objective
    from src.training.pruning import FindBetter


def train(config: DictConfig) -> float | None:
    """Run the training that ``config`` describes; return its ``best_val/loss``, for sweepers.

    In a sweep, a run that fails returns None: why, its status says.
    """
    phases.begin()
    hydra = HydraConfig.get()
    if is_in_worker(hydra):
        signals.remember()
    folder = relative(hydra.runtime.output_dir)
    run = partial(_train, config, folder)
    if hydra.mode != RunMode.MULTIRUN:
        return run()
    return run_job(run, folder, folder / f"{hydra.job.name}.log", task_overrides())


def _train(config: DictConfig, folder: Path) -> float | None:
    with phases.phase("starting"):  # seconds, so after the command line is right
        from src.training.record import check_functions
        from src.training.slurm import requeue
        from src.training.start import start_run
        from src.training.status import read_status

    overrides = task_overrides()
    hydra = HydraConfig.get()
    find_better = join_sweep(hydra, folder)
    settings, objective = read_settings(config, overrides)
    check_functions(cast(dict[str, Any], as_typed(config)), overrides)
    search = [o for o in as_typed(hydra.overrides.hydra) if o.startswith("hydra.searchpath")]
    worker = worker_command(sys.argv[1:], [*search, *overrides], folder)
    if config.resume and not (folder / "run.json").exists():  # a run that its sweep begins now
        overrides = [*values_in_sweep(folder), *overrides]
    try:
        sweep = choices(folder, overrides, find_better)
        stopped_by = start_run(settings, objective, folder, overrides, worker, sweep)
    except Exception as error:
        if disk.refusal(error) and (folder / "run.json").exists():
            error.add_note(f"go on with: {command('train', resume=folder)}")
        raise
    if stopped_by is None:
        status = read_status(folder)
        return None if status is None else status.best_val_loss
    # SLURM's word that the time is nearly over. A sweep would begin anew.
    if stopped_by == getattr(signal, "SIGUSR1", None) and hydra.mode == RunMode.RUN:
        requeue()
    raise Stopped(stopped_by)


def read_settings(
    config: DictConfig, overrides: Sequence[str] = ()
) -> "tuple[TrainConfig, type[Objective]]":
    """Return the values of ``config``, checked, and the class of its objective.

    A run that goes on has the values it had, but for those that ``overrides`` set; one that
    continues from another has those of the other.

    Raises:
        UserError: a value has the wrong type or range, or there is no such objective.
    """
    from src.training.record import RECORD, read_record

    if config.resume is None:
        if config.continue_from is not None and overrides:
            config = continued(config, overrides)
        return _typed_settings(config)
    folder = Path(config.resume)
    if not (folder / RECORD).exists():
        values = settings_in_sweep(folder)  # of a run that its sweep has not begun
        return _typed_settings(config if values is None else recorded(config, values, overrides))
    try:
        return _typed_settings(recorded(config, read_record(folder).config, overrides))
    except MISTAKES as error:
        raise UserError(f"resume={folder}: {one_line(error)}") from error


def recorded(config: DictConfig, values: dict[str, Any], overrides: Sequence[str]) -> DictConfig:
    """Return ``config`` with the settings ``values`` of a run, but for what is overridden."""
    from src.training.record import check_functions

    values.pop("resume", None)
    check_functions(values, overrides)  # a run folder may be a stranger's
    return _with(config, values, overridden(overrides))


def continued(config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Return ``config`` with the settings of what it continues from, but for what is overridden.

    Raises:
        UserError: there is nothing to continue from, or its record cannot be used.
    """
    from src.training.origin import settings_of

    values = settings_of(config.continue_from)
    keys = overridden(overrides)
    if "max_epochs" in keys and "max_steps" not in keys:  # which would win
        values["max_steps"] = None
    return _with(config, values, keys)


def _with(config: DictConfig, values: dict[str, Any], but_for: Sequence[str]) -> DictConfig:
    from src.training.record import literal, without

    for key in but_for:
        without(values, key)
    OmegaConf.set_struct(config, False)
    return cast(DictConfig, OmegaConf.merge(config, literal(values)))


def overridden(overrides: Sequence[str]) -> list[str]:
    """Return the keys that ``overrides`` set; those of a preset where it differs from none."""
    keys = [re.split(r"[=@]", o.lstrip("+~"), maxsplit=1)[0] for o in overrides if is_override(o)]
    presets = [o for o in overrides if (CONF / o.split("=")[0]).is_dir()]
    if presets:
        with_them, without_them = (_composed(o) for o in (presets, []))
        keys += [key for key, value in with_them.items() if without_them.get(key) != value]
    return keys


def _composed(overrides: list[str]) -> dict[str, Any]:
    from src.training.plan import flat

    return flat(cast(Any, OmegaConf.to_container(compose("train", overrides=overrides))))


def choices(
    folder: Path, overrides: Sequence[str], find_better: "FindBetter | None" = None
) -> "Choices":
    """Return the defaults of all settings, and what the runs of a sweep differ in."""
    from src.training.hparams import Choices
    from src.training.plan import flat

    defaults, _ = _typed_settings(compose("train"))
    return Choices(flat(asdict(defaults)), swept(folder, overrides), find_better)


def _typed_settings(config: DictConfig) -> "tuple[TrainConfig, type[Objective]]":
    from src.objectives import OBJECTIVES
    from src.training.config import TrainConfig

    name = config.objective.name
    if name not in OBJECTIVES:
        hint = choice_question(name, list(OBJECTIVES))
        raise UserError(f"objective.name={name}: must be one of {', '.join(OBJECTIVES)}{hint}")
    objective = OBJECTIVES[name]
    for key in config.objective.keys() - objective.Config.__dataclass_fields__.keys():
        raise UserError(f"objective.{key}: objective={name} has no such setting")
    values = typed(objective.Config, config.objective)
    return typed(TrainConfig, config, objective=values), objective


def worker_command(arguments: list[str], overrides: list[str], folder: Path) -> list[str]:
    """Return the command line of another process of the run in ``folder``.

    Args:
        arguments: rank 0's command line, for its flags.
        overrides: the values of this run; in a sweep, the command line holds those of all runs.
        folder: of the run.
    """
    multirun = ("-m", "--multirun")
    flags = [a for a in arguments if a not in (*overrides, *multirun) and not is_override(a)]
    values = [o for o in overrides if not o.startswith("sweep=")]
    return [*flags, *values, f"hydra.run.dir={grammatical(folder)}", "hydra.output_subdir=null"]


def is_override(argument: str) -> bool:
    """Whether an argument sets a value; others are flags of Hydra."""
    return "=" in argument and not argument.startswith("-")


def process_arguments(arguments: list[str]) -> list[str]:
    """Return the arguments that Hydra composes.

    Raises:
        UserError: a sweep under a launcher that has started the processes of one run.
    """
    check_names(arguments)
    for what, module in needed(arguments).items():
        require(module, "sweep", what)
    place = find_place()
    if place.world_size > 1 and {"-m", "--multirun"} & set(arguments):
        raise UserError(
            f"-m: {place.launcher} started the processes of one run; leave it out, or start the "
            f"sweep without {place.launcher}"
        )
    return resume_arguments(of_its_objective(arguments))


def check_names(arguments: list[str]) -> None:
    """Check the name of a run, or of a sweep, before Hydra puts it into a path or a sweep.

    Raises:
        UserError: no folder's name can hold it.
    """
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if equals and key == "name" and value.lower() != "null" and "${" not in value:
            check_name(unquoted(value))


def resume_arguments(arguments: list[str]) -> list[str]:
    """Return the arguments; with ``resume=``, those of the run that continues."""
    from src.training.slurm import is_restarted

    if may_be_sweep(arguments):  # which goes on otherwise
        return arguments
    resumes = any(argument.startswith("resume=") for argument in arguments)
    named = [a.removeprefix("hydra.run.dir=") for a in arguments if a.startswith("hydra.run.dir=")]
    if not (resumes or named or is_restarted()):
        return arguments
    from src.training.resume import refuse_used, requeued_run, resumed_arguments  # seconds

    if not resumes:
        folder = requeued_run(arguments, RUNS)
        if folder is None:
            for name in named:  # before Hydra writes there
                refuse_used(Path(unquoted(name)))
            return arguments
        say(f"this job was queued again: it goes on with {folder}", sys.stderr)
        arguments = [*arguments, f"resume={grammatical(folder)}"]
    for argument in arguments:
        if argument.startswith("resume="):
            refuse_sweep(Path(unquoted(argument.removeprefix("resume="))).expanduser())
    run_arguments = resumed_arguments(arguments, RUNS)
    if run_arguments is not None:
        return run_arguments
    say("resume=auto: no unfinished run to go on with; starting a new one", sys.stderr)
    return [a for a in arguments if not a.startswith("resume=")]


def unchangeable(arguments: Sequence[str]) -> list[str]:
    """Return the keys that no run that goes on may have otherwise; a function is typed again."""
    from src.training.resume import MAY_CHANGE

    overrides = [a for a in arguments if is_override(a) and not a.startswith("hydra")]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return [k for k in overridden(overrides) if k != REWARD and not k.startswith(MAY_CHANGE)]


def around(arguments: list[str]) -> AbstractContextManager[list[str]]:
    """Show and rank the runs, if the command line asks for many."""
    return sweeping(arguments, RUNS, unchangeable)


if __name__ == "__main__":
    signals.take()
    run_door(
        train, "train", join=meet, rewrite=process_arguments, around=around, check=read_settings
    )
