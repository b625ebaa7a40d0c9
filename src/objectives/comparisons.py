"""The data of objectives that learn from comparisons."""

from src.data.datamodule import ChatDataModule
from src.data.order import Batching
from src.data.sources import Source
from src.data.tokenizer import Tokenizer
from src.training.config import TrainConfig


def comparison_data(
    config: TrainConfig,
    tokenizer: Tokenizer,
    source: Source,
    block_size: int,
    max_length: int,
    batching: Batching,
) -> ChatDataModule:
    """Return packed comparisons: a prompt's replies lie in one block."""
    raise NotImplementedError
