"""The data of objectives that learn from comparisons."""

from src.data.comparison_datamodule import ComparisonDataModule
from src.data.order import Batching
from src.data.source import Source
from src.data.tokenizer import Tokenizer
from src.training.config import TrainConfig


def comparison_data(
    config: TrainConfig,
    tokenizer: Tokenizer,
    source: Source,
    block_size: int,
    max_length: int,
    batching: Batching,
) -> ComparisonDataModule:
    """Return packed comparisons: a prompt's replies lie in one block."""
    return ComparisonDataModule(
        config.data,
        tokenizer,
        source,
        block_size=block_size,
        max_length=max_length,
        batching=batching,
        max_steps=config.max_steps,
        max_epochs=config.max_epochs or 1,
        seed=config.seed,
    )
