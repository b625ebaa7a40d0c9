"""Measure: ``python -m src.benchmark [what=train] [data.path=rows.jsonl] ...``."""

import signal
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from src.cli import Stopped, run_door, typed


def benchmark(config: DictConfig) -> None:
    """Run the benchmark that ``config`` describes."""
    from src.benchmark.benchmark import benchmark as measure  # seconds to import
    from src.benchmark.config import BenchmarkConfig

    settings = typed(BenchmarkConfig, config)
    signal.signal(signal.SIGTERM, _stop)
    measure(settings, Path(HydraConfig.get().runtime.output_dir))


def _stop(number: int, _: object) -> None:
    raise Stopped(number)


def with_file(arguments: list[str]) -> list[str]:
    """Return the command line to compose: a path alone names a file, with all that is a file's."""
    given = dict(argument.lstrip("+").split("=", 1) for argument in arguments if "=" in argument)
    named = given.get("data.path", "null") != "null"
    return [*arguments, "data=file"] if named and "data" not in given else arguments


if __name__ == "__main__":
    run_door(benchmark, "benchmark", rewrite=with_file)
