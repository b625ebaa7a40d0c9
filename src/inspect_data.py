"""See what the model will be taught: ``python -m src.inspect_data [data=sample model=tiny] ...``.

The figures of the rows, their lengths and their packing, then packed blocks token by token, in the
order in which a training of the same seed sees them. With ``format=json``: each conversation as it
was read, one a line, then the report.
"""

import io
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from omegaconf import DictConfig

from src.checks import at_least, check, one_of, within
from src.command.cli import run_door, typed
from src.data.config import DataConfig
from src.errors import UserError
from src.model.config import ModelConfig
from src.streams import say


@dataclass
class InspectConfig:
    """The values of ``conf/inspect_data.yaml``."""

    data: DataConfig
    rows: Annotated[str, one_of(("conversations", "comparisons"))]
    model: ModelConfig
    seed: Annotated[int, within("[0, 2^32)")]
    num_blocks: Annotated[int, at_least(0)]
    format: Annotated[str, one_of(("text", "json"))]

    def __post_init__(self) -> None:
        """Check ranges; raise UserError naming the key."""
        check(self)


def inspect_data(config: DictConfig) -> None:
    """Print what the rows become, to standard output."""
    settings = typed(InspectConfig, config)
    if settings.format == "json":
        _print_json(settings)
        return

    from rich.console import Console

    with Console(stderr=True).status("reading and encoding the rows"):
        # After the config is checked, for the imports take seconds.
        from src.data.blocks import choose_block_size
        from src.data.comparison_datamodule import ComparisonDataModule
        from src.data.datamodule import ChatDataModule, open_data
        from src.data.order import Batching
        from src.inspection import viewer

        kind = ComparisonDataModule if settings.rows == "comparisons" else ChatDataModule
        positions = _num_positions(settings.model)
        source, tokenizer = open_data(
            settings.data,
            settings.model.tokenizer,
            settings.model.vocab_size,
            kind.reader,
        )
        data = kind(
            settings.data,
            tokenizer,
            source,
            block_size=choose_block_size(settings.data.block_size, positions),
            max_length=positions,
            batching=Batching(1, 1, 1),
            seed=settings.seed,
        )
        data.setup()

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without Unicode shows "?"
    viewer.show(data, settings.num_blocks)


def _num_positions(config: ModelConfig) -> int:
    """Return the positions of the model; if the hub does not say, those of the config."""
    from src.model.pretrained import num_positions

    try:
        return num_positions(config)
    except UserError as error:
        if Path(config.pretrained or "").expanduser().exists():
            raise
        say(
            f"warning: these are blocks for model.n_positions={config.n_positions}: {error}",
            sys.stderr,
        )
        return config.n_positions


def _print_json(settings: InspectConfig) -> None:
    """Print what is read, before anything is encoded."""
    from src.data.comparison_reader import ComparisonReader
    from src.data.conversation import RowReader
    from src.data.sources import open_source
    from src.inspection.conversations import json_lines

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")
    reader = ComparisonReader if settings.rows == "comparisons" else RowReader
    for line in json_lines(open_source(settings.data).read_by(reader)):
        print(line)


if __name__ == "__main__":
    run_door(inspect_data, "inspect_data")
