"""ComparisonDataModule: rankings of replies in blocks, a prompt's replies side by side."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from src.data.comparison_corpus import ComparisonCorpus
from src.data.comparison_reader import ComparisonReader
from src.data.comparison_targets import Comparisons, ranked_pairs
from src.data.config import DataConfig
from src.data.corpus import Corpus
from src.data.datamodule import ChatDataModule
from src.data.source import Reader
from src.errors import UserError

BLOCK_STEP = 64  # a block that grows has a multiple of so many positions


class ComparisonDataModule(ChatDataModule):
    """Packs the replies of each prompt as a unit; see ``ChatDataModule``.

    Batches are ``ComparisonBatch``es. A block has the positions of ``data.block_size``; without it
    those of the model, or as many as the largest group needs whose replies all fit the model. A
    group that does not fit is dropped and counted.

    Raises:
        UserError: a setting of ``data`` is for conversations alone.
    """

    reader: ClassVar[Reader] = ComparisonReader
    corpus_type: ClassVar[type[Corpus]] = ComparisonCorpus

    def __init__(self, config: DataConfig, *args: Any, **values: Any):
        refuse_settings_of_conversations(config)
        super().__init__(config, *args, targets=Comparisons(), **values)

    @property
    def supervise(self) -> str:
        """What the tokens are marked for: a reply is scored without the constant header."""
        return "responses"

    def fitting_block_size(self, corpora: Sequence[ComparisonCorpus]) -> int:
        """Return the positions of a block."""
        if self.config.block_size is not None:
            return self.block_size
        max_length = self.max_length or self.block_size
        longest = max(longest_group(corpus, max_length) for corpus in corpora)
        return max(self.block_size, -(-longest // BLOCK_STEP) * BLOCK_STEP)

    def num_pairs(self, split: str) -> int:
        """Return how many pairs of replies of one prompt a split has, ties left out."""
        index, corpus = self.splits[split].corpus_index, self.splits[split].corpus
        assert isinstance(corpus, ComparisonCorpus)
        pairs, _ = ranked_pairs(corpus.ranks[index], np.cumsum(corpus.firsts[index]))
        return len(pairs)


def longest_group(corpus: ComparisonCorpus, max_length: int) -> int:
    """Return the tokens of the longest group whose replies have ``max_length`` tokens at most."""
    starts = corpus.units[:-1]
    if not len(starts):
        return 0
    lengths = np.add.reduceat(corpus.lengths, starts)
    fits = np.maximum.reduceat(corpus.lengths, starts) <= max_length
    return int(lengths[fits].max(initial=0))


def refuse_settings_of_conversations(config: DataConfig, rows: str = "comparisons") -> None:
    """Check that no setting is on that these ``rows`` do not have.

    Raises:
        UserError: names it.
    """
    for key, default in (
        ("prompt_loss_weight", 0.0),
        ("join_turns", 0.0),
        ("isolate_documents", True),
        ("reset_positions", True),
    ):
        value = getattr(config, key)
        if value != default:
            shown = str(value).lower() if isinstance(value, bool) else f"{value:g}"
            raise UserError(
                f"data.{key}={shown}: {rows} have no such choice; leave it at "
                f"{str(default).lower()}"
            )
