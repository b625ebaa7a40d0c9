"""Train: ``python -m src.train [hardware=a100] [data=file data.path=rows.jsonl] ...``."""

import sys
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from src.cli import RUNS, Stopped, run_door, typed


def train(config: DictConfig) -> None:
    """Run the training that ``config`` describes."""
    from src.training import run  # after the command line is known to be right: seconds to import
    from src.training.config import TrainConfig

    settings = typed(TrainConfig, config)
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    if signal := run.train(settings, folder, list(hydra.overrides.task)):
        raise Stopped(signal)


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
    run_door(train, "train", rewrite=resumed)
