"""Show a sweep, an old one or one that still runs: ``python -m src.sweep [FOLDER]``.

Writes its ``results.csv`` and ``sweep.png`` anew. Without a folder: the newest sweep.
"""

from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from src.command.cli import RUNS, run_door, typed
from src.errors import UserError
from src.sweeps.display import run_lines
from src.sweeps.files import report
from src.sweeps.outcomes import open_sweep
from src.sweeps.state import MULTIRUN, SWEEP
from src.training.status import RUNNING
from src.wording.command_line import command

FREE_TEXT = ("folder",)
NO_LIMIT = 10**6  # lines


@dataclass
class SweepConfig:
    """The values of ``conf/sweep.yaml``."""

    folder: str | None


def sweep(config: DictConfig, **text: str) -> None:
    """Print the ranking, and write the files."""
    settings = typed(SweepConfig, config, **text)
    folder = newest_sweep(RUNS) if settings.folder is None else Path(settings.folder).expanduser()
    results = open_sweep(folder)
    if results.count(RUNNING):
        for line in run_lines(results, NO_LIMIT):
            print(line)
        print()
    for line in report(results):
        print(line)


def newest_sweep(runs: Path) -> Path:
    """Return the folder of the newest sweep under ``runs``.

    Raises:
        UserError: there is none.
    """
    found = [path for name in (SWEEP, MULTIRUN) for path in runs.glob(f"*/{name}")]
    if not found:
        start = command("train").replace("src.train", "src.train -m sweep=lr_batch_size")
        raise UserError(f"there is no sweep under {runs}: start one ({start}), or name its folder")
    return max(found, key=lambda path: path.stat().st_mtime).parent


if __name__ == "__main__":
    run_door(sweep, "sweep", free_text=FREE_TEXT, alone="folder")
