"""Train: ``python -m src.train [hardware=a100] [data=file data.path=rows.jsonl] ...``."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from src.cli import RUNS, Stopped, run_door, typed
from src.errors import UserError

if TYPE_CHECKING:
    from src.training.config import TrainConfig
    from src.training.objective import Objective


def train(config: DictConfig) -> None:
    """Run the training that ``config`` describes."""
    from src.training.start import train  # after the command line is right: seconds to import

    settings, objective = read_settings(config)
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    overrides = list(hydra.overrides.task)
    search = [o for o in hydra.overrides.hydra if o.startswith("hydra.searchpath")]
    command = joining(sys.argv[1:], [*search, *overrides], folder)
    if signal := train(settings, objective, folder, overrides, command):
        raise Stopped(signal)


def read_settings(config: DictConfig) -> "tuple[TrainConfig, type[Objective]]":
    """Return the values of ``config``, checked, and what makes its objective.

    Raises:
        UserError: a value has the wrong type or range, or there is no such objective.
    """
    from src.objectives import OBJECTIVES
    from src.training.config import TrainConfig

    name = config.objective.name
    if name not in OBJECTIVES:
        raise UserError(f"objective.name={name}: must be one of {', '.join(OBJECTIVES)}")
    objective = OBJECTIVES[name]
    values = typed(objective.Config, config.objective)
    return typed(TrainConfig, config, objective=values), objective


def joining(arguments: list[str], overrides: list[str], folder: Path) -> list[str]:
    """Return the command line with which another process takes part in the run in ``folder``.

    Args:
        arguments: rank 0's command line, for its flags.
        overrides: the values of this run, which in a sweep are not those of the command line.
        folder: where the run is.
    """
    from src.training.resume import quoted

    multirun = ("-m", "--multirun")
    flags = [a for a in arguments if a not in (*overrides, *multirun) and not is_override(a)]
    values = [o for o in overrides if not o.startswith("sweep=")]
    return [*flags, *values, f"hydra.run.dir={quoted(folder)}", "hydra.output_subdir=null"]


def is_override(argument: str) -> bool:
    """Whether an argument sets a value, rather than telling Hydra what to do."""
    return "=" in argument and not argument.startswith("-")


def composed(arguments: list[str]) -> list[str]:
    """Return the command line to compose: of several processes, the others take rank 0's.

    Raises:
        UserError: a sweep under a launcher that has started the processes of one run.
    """
    from src.training.launch import meet
    from src.training.place import find_place

    place = find_place()
    told = meet(place)
    if told is not None:
        return told
    if place.world_size > 1 and {"-m", "--multirun"} & set(arguments):
        raise UserError(
            f"-m: {place.launcher} started the processes of one run; leave it out, or start the "
            f"sweep without {place.launcher}"
        )
    return resumed(arguments)


def resumed(arguments: list[str]) -> list[str]:
    """Return the command line of a run that goes on, if ``resume=`` is given."""
    if not any(argument.startswith("resume=") for argument in arguments):
        return arguments
    from src.training.resume import resumed_arguments

    own = resumed_arguments(arguments, RUNS)
    if own is None:
        print("resume=auto: no unfinished run to go on with; starting a new one", file=sys.stderr)
    return own or [a for a in arguments if not a.startswith("resume=")]


if __name__ == "__main__":
    run_door(train, "train", rewrite=composed)
