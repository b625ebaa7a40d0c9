"""Train: ``python -m src.train [hardware=a100] [data=file data.path=rows.jsonl] ...``."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from src import disk
from src.cli import RUNS, Stopped, as_typed, run_door, task_overrides, typed
from src.command_line import command, grammatical
from src.errors import UserError

if TYPE_CHECKING:
    from src.training.config import TrainConfig
    from src.training.objective import Objective


def train(config: DictConfig) -> None:
    """Run the training that ``config`` describes."""
    from src.training.start import start_run  # after the command line is right: seconds to import

    settings, objective = read_settings(config)
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    overrides = task_overrides()
    search = [o for o in as_typed(hydra.overrides.hydra) if o.startswith("hydra.searchpath")]
    worker = worker_command(sys.argv[1:], [*search, *overrides], folder)
    try:
        signal = start_run(settings, objective, folder, overrides, worker)
    except Exception as error:
        if disk.refusal(error) and (folder / "run.json").exists():
            error.add_note(f"go on with: {command('train', resume=folder)}")
        raise
    if signal:
        raise Stopped(signal)


def read_settings(config: DictConfig) -> "tuple[TrainConfig, type[Objective]]":
    """Return the values of ``config``, checked, and the class of its objective.

    Raises:
        UserError: a value has the wrong type or range, or there is no such objective.
    """
    from src.objectives import OBJECTIVES
    from src.training.config import TrainConfig

    name = config.objective.name
    if name not in OBJECTIVES:
        raise UserError(f"objective.name={name}: must be one of {', '.join(OBJECTIVES)}")
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
    """Return the arguments that Hydra composes; every rank but 0 gets those of rank 0.

    Raises:
        UserError: a sweep under a launcher that has started the processes of one run.
    """
    from src.training.launch import meet
    from src.training.place import find_place

    place = find_place()
    rank_0_arguments = meet(place)
    if rank_0_arguments is not None:
        return rank_0_arguments
    if place.world_size > 1 and {"-m", "--multirun"} & set(arguments):
        raise UserError(
            f"-m: {place.launcher} started the processes of one run; leave it out, or start the "
            f"sweep without {place.launcher}"
        )
    return resume_arguments(arguments)


def resume_arguments(arguments: list[str]) -> list[str]:
    """Return the arguments; with ``resume=``, those of the run that continues."""
    if not any(argument.startswith("resume=") for argument in arguments):
        return arguments
    from src.training.resume import resumed_arguments

    run_arguments = resumed_arguments(arguments, RUNS)
    if run_arguments is not None:
        return run_arguments
    print("resume=auto: no unfinished run to go on with; starting a new one", file=sys.stderr)
    return [a for a in arguments if not a.startswith("resume=")]


if __name__ == "__main__":
    run_door(train, "train", rewrite=process_arguments)
