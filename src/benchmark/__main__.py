"""Measure: ``python -m src.benchmark [what=train] [data=file data.path=rows.jsonl] ...``."""

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


if __name__ == "__main__":
    run_door(benchmark, "benchmark")
