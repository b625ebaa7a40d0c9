"""Measure: ``python -m src.benchmark [what=train] [data.path=rows.jsonl] ...``, or show again."""

import signal
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

import src.sweeps.job  # noqa: F401 - names the folders of a grid
from src.command.cli import Stopped, named_file, run_door, task_overrides, typed
from src.wording.command_line import relative


def benchmark(config: DictConfig) -> None:
    """Run the benchmark that ``config`` describes, or print the tables of the one at ``show``."""
    from src.benchmark.benchmark import measure, tables  # seconds to import
    from src.benchmark.config import BenchmarkConfig

    settings = typed(BenchmarkConfig, config)
    if settings.show is not None:
        print(tables(Path(settings.show)))
        return
    signal.signal(signal.SIGTERM, _stop)
    run = HydraConfig.get()
    measure(settings, relative(run.runtime.output_dir), task_overrides())


def check_settings(config: DictConfig, _: list[str]) -> None:
    """Check the values of ``config``; raise what is wrong."""
    from src.benchmark.config import BenchmarkConfig

    typed(BenchmarkConfig, config)


def _stop(number: int, _: object) -> None:
    raise Stopped(number)


def composed(arguments: list[str]) -> list[str]:
    """Return the command line to compose: a path alone names a file, with all that is a file's."""
    if any(
        a.startswith("show=") and a != "show=null" for a in arguments
    ):  # nothing is to be written
        return [
            *arguments,
            "hydra.run.dir=.",
            "hydra.output_subdir=null",
            "hydra/job_logging=quiet",
        ]
    return named_file(arguments)


if __name__ == "__main__":
    run_door(benchmark, "benchmark", rewrite=composed, check=check_settings)
