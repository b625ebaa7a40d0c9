"""Which runs there are, and what became of them: ``python -m src.runs [FOLDER]``."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from omegaconf import DictConfig

from src.checks import check, one_of
from src.command.cli import run_door, typed
from src.errors import UserError

MOST_COLUMNS = 100


@dataclass
class RunsConfig:
    """The values of ``conf/runs.yaml``."""

    folder: str
    format: Annotated[str, one_of(("text", "json"))]

    def __post_init__(self) -> None:
        """Check ranges; raise UserError naming the key."""
        check(self)


def runs(config: DictConfig) -> None:
    """Print a table of the runs in a folder, or an object a line for each of them."""
    settings = typed(RunsConfig, config)

    from src.records.runs import find_runs
    from src.records.table import as_json, table_lines

    folder = Path(settings.folder).expanduser()
    if not folder.is_dir():
        raise UserError(f"folder={folder}: no such folder: name one that holds runs")
    entries = find_runs(folder)
    if settings.format == "json":
        for values in as_json(entries):
            print(json.dumps(values))
        return
    width = min(shutil.get_terminal_size((MOST_COLUMNS, 0)).columns, MOST_COLUMNS)
    for line in table_lines(entries, folder, width):
        print(line)


if __name__ == "__main__":
    run_door(runs, "runs", alone="folder")
