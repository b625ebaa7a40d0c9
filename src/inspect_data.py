"""See what the model will be taught: ``python -m src.inspect_data [data=sample model=tiny] ...``.

The figures of the rows, their lengths and their packing, then packed blocks token by token, in the
order in which a training of the same seed sees them.
"""

import sys
from dataclasses import dataclass
from typing import Annotated

from omegaconf import DictConfig

from src.checks import at_least, check, within
from src.cli import run_door, typed
from src.data.config import DataConfig
from src.model.config import ModelConfig


@dataclass
class InspectConfig:
    """The values of ``conf/inspect_data.yaml``."""

    data: DataConfig
    model: ModelConfig
    seed: Annotated[int, within("[0, 2^32)")]
    num_blocks: Annotated[int, at_least(0)]

    def __post_init__(self) -> None:
        """Check ranges; raise UserError naming the key."""
        check(self)


def inspect_data(config: DictConfig) -> None:
    """Print what the rows become, to standard output."""
    settings = typed(InspectConfig, config)

    from rich.console import Console

    with Console(stderr=True).status("reading and encoding the rows"):
        # After the config is known to be right: seconds to import.
        from src.data.datamodule import ChatDataModule, open_data
        from src.data.order import Batching
        from src.inspection import viewer

        source, tokenizer = open_data(
            settings.data, settings.model.tokenizer, settings.model.vocab_size
        )
        data = ChatDataModule(
            settings.data,
            tokenizer,
            source,
            block_size=settings.data.block_size or settings.model.n_positions,
            max_length=settings.model.n_positions,
            batching=Batching(1, 1, 1),
            seed=settings.seed,
        )
        data.setup()

    sys.stdout.reconfigure(errors="replace")  # a terminal without Unicode shows "?", and goes on
    viewer.show(data, settings.num_blocks)


if __name__ == "__main__":
    run_door(inspect_data, "inspect_data")
