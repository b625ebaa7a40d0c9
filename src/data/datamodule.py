"""ChatDataModule: from a dataset's name to batches, for Lightning.

The doors call ``setup``, which builds and packs the corpus, themselves: the preflight report shows
its figures before a Trainer exists.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import numpy as np
from torch.utils.data import DataLoader

from src.data.blocks import Blocks
from src.data.config import DataConfig
from src.data.conversation import RowReader
from src.data.corpus import Corpus, build_corpus, corpus_key, read_report
from src.data.joining import Joining
from src.data.mixture import Share, copies, shares
from src.data.opening import open_data as open_data
from src.data.order import Batching, MicroBatches, ResumableLoader, data_loader
from src.data.report import RowReport
from src.data.source import Reader, Source
from src.data.sources import SPLITS
from src.data.subset import subset
from src.data.targets import Labels, Targets
from src.data.template import with_prompts
from src.data.tokenizer import Tokenizer
from src.errors import UserError


class ChatDataModule(L.LightningDataModule):
    """Packs rows into blocks and serves them in global batches.

    Args:
        config: the values of ``conf/data``.
        tokenizer: what encodes the rows.
        source: where the rows come from.
        block_size: positions of a block.
        max_length: tokens of an example, at most; None: a block.
        batching: how a global batch is cut.
        max_steps: optimizer steps of the run; None: those of ``max_epochs``.
        max_epochs: how often each block is seen.
        seed: of the order of the blocks.
        targets: what is due in a batch; None: labels.

    Raises:
        UserError: prompts cannot be scored beside ``targets``; or from ``setup``, if the rows
            cannot be read or used.
    """

    reader: ClassVar[Reader] = RowReader  # what the rows are read as
    corpus_type: ClassVar[type[Corpus]] = Corpus
    unit: ClassVar[str] = "blocks"  # of which batch_size are a step

    def __init__(
        self,
        config: DataConfig,
        tokenizer: Tokenizer,
        source: Source,
        *,
        block_size: int,
        batching: Batching,
        max_length: int | None = None,
        max_steps: int | None = None,
        max_epochs: int = 1,
        seed: int,
        targets: Targets | None = None,
    ):
        super().__init__()
        if targets is not None and config.prompt_loss_weight:
            raise UserError(
                f"data.prompt_loss_weight={config.prompt_loss_weight}: prompts are scored for "
                f"objective=sft alone; leave it at 0"
            )
        self.config = config
        self.tokenizer = tokenizer
        self.source = source if self.reader is RowReader else source.read_by(self.reader)
        self.block_size = block_size
        self.max_length = max_length
        self.batching = batching
        self.max_steps = max_steps
        self.max_epochs = max_epochs
        self.seed = seed
        self.targets = targets
        self.report = RowReport()
        self.splits: dict[str, Blocks] = {}
        self.parts: dict[str, dict[str, Blocks]] = {}  # of a split, by the label of the source
        self.limits: dict[str, int | None] = {}  # blocks that are scored of a held-out split

    def prepare_data(self) -> None:
        """Build the corpus unless it is there."""
        self.folder = build_corpus(
            self.source,
            self.tokenizer,
            self.supervise,
            Path(self.config.corpus_dir),
            self.joining,
            self.corpus_type,
        )

    def setup(self, stage: str | None = None) -> None:
        """Open the corpus and pack it; once."""
        if self.splits:
            return
        self.prepare_data()
        self.report = read_report(self.folder)
        corpora = {split: self.corpus_type.open(self.folder / split) for split in SPLITS}
        self.block_size = self.fitting_block_size(list(corpora.values()))
        for split, corpus in corpora.items():
            self.splits[split] = (
                self._pack_train(corpus) if split == "train" else self._pack(corpus)
            )

    def fitting_block_size(self, corpora: Sequence[Any]) -> int:
        """Return the positions of a block, for the corpora of all splits: as asked for."""
        return self.block_size

    def _pack_train(self, corpus: Corpus) -> Blocks:
        config = self.config
        blocks = Blocks.build(
            corpus,
            self.block_size,
            config.packing,
            self.tokenizer.end_id,
            max_length=self.max_length,
            targets=self.targets or Labels(config.prompt_loss_weight),
            copies=copies(corpus, self.weights, self.seed),
        )
        return blocks.read_as(config.isolate_documents, config.reset_positions)

    def _pack(self, corpus: Corpus, copies: np.ndarray | None = None) -> Blocks:
        """Pack what is scored: in the same way, however training packs, so that runs compare.

        Without packing the figures are the same but take eleven times as long.
        """
        return Blocks.build(
            corpus,
            self.block_size,
            packing=True,
            end_id=self.tokenizer.end_id,
            max_length=self.max_length,
            targets=self.targets,
            copies=copies,
        )

    @property
    def labels(self) -> list[str]:
        """What the figures of each source are called."""
        return [source.label for source in self.source.sources]

    @property
    def weights(self) -> list[float]:
        """How often each row of each source is in an epoch of training."""
        return [source.weight for source in self.source.sources]

    def shares(self, split: str = "train") -> list[Share]:
        """Return how much of a split each source makes."""
        return shares(self.splits[split], self.labels, self.weights)

    def by_source(self, split: str) -> dict[str, Blocks]:
        """Return the blocks of each source of a split that has any, or those in its ``limits``."""
        if split not in self.parts:
            whole = self.splits[split]
            chosen = np.ones(len(whole.corpus.units) - 1, dtype=bool)
            if self.is_bounded(split):
                chosen = subset(whole, self.limits[split] or 1)
            self.parts[split] = self._pack_by_source(whole, chosen)
        return self.parts[split]

    def is_bounded(self, split: str) -> bool:
        """Whether not all blocks of a split are scored."""
        limit = self.limits.get(split)
        return limit is not None and limit < len(self.splits[split])

    def _pack_by_source(self, whole: Blocks, chosen: np.ndarray) -> dict[str, Blocks]:
        if len(self.labels) == 1 and chosen.all():
            return {self.labels[0]: whole} if len(whole) else {}
        sources = whole.corpus.sources[whole.corpus.units[:-1]]
        parts = {
            label: replace(
                self._pack(whole.corpus, ((sources == number) & chosen).astype(np.int64)),
                targets=whole.targets,  # an objective may have added to them
            )
            for number, label in enumerate(self.labels)
        }
        return {label: blocks for label, blocks in parts.items() if len(blocks)}

    @property
    def key(self) -> str:
        """The hash that names the corpus."""
        return corpus_key(
            self.source, self.tokenizer, self.supervise, self.joining, self.corpus_type
        )

    @property
    def supervise(self) -> str:
        """What the tokens of the corpus are marked for."""
        mode = self.config.supervise
        return with_prompts(mode) if self.config.prompt_loss_weight else mode

    @property
    def joining(self) -> Joining | None:
        """How single-turn rows become conversations; None: not at all."""
        if not self.config.join_turns:
            return None
        length = min(self.max_length or self.block_size, self.block_size)
        return Joining(self.config.join_turns, length)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps that see every training block once."""
        return self.batching.steps(len(self.splits["train"]))

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the run."""
        return self.max_steps or self.max_epochs * self.steps_per_epoch

    @property
    def num_learned(self) -> int:
        """Training blocks of the run, each as often as it is seen."""
        epochs, steps = divmod(self.num_steps, self.steps_per_epoch)
        blocks = len(self.splits["train"])
        return epochs * blocks + min(steps * self.batching.batch_size, blocks)

    def shared_prompts(self, split: str, nearly: bool = False) -> int:
        """Return how many rows of a held-out ``split`` have a first prompt that train has too.

        ``nearly``: also those that differ in case, spaces and punctuation only. Rows count before
        any are joined.
        """
        counts = self.report.shared_prompts.get(split, {})
        return counts.get("nearly" if nearly else "exactly", 0)

    def conversations(self, split: str) -> list[Any]:
        """Read the rows of one split again, as text; of a bounded one, those scored."""
        rows = self.source.read(RowReport())
        found = [conversation for name, conversation in rows if name == split]
        if self.is_bounded(split):
            scored = [blocks.corpus_units for blocks in self.by_source(split).values()]
            found = [found[row] for row in np.sort(np.concatenate(scored))]
        return found

    def some_conversations(self, split: str, most: int) -> list[Any]:
        """Return some rows of one split, of each source and family in turn."""
        sources = self.source.sources
        share = -(-most // len(sources))
        corpus = self.splits[split].corpus
        there = np.bincount(corpus.sources[corpus.units[:-1]], minlength=len(sources)).tolist()
        counts = [min(share, number) for number in there]
        found = (s.some(split, n) if n else [] for s, n in zip(sources, counts, strict=True))
        return [row for rows in zip_longest(*found) for row in rows if row is not None][:most]

    def _micro_batches(self, blocks: Blocks, train: bool) -> MicroBatches:
        batching = self.batching
        if not train:  # one micro-batch a step
            batching = batching.cut_for(len(blocks))  # few blocks are not filled up with empty ones
            batch_size = batching.micro_batch_size * batching.num_devices
            batching = replace(batching, batch_size=batch_size)
        return MicroBatches(
            blocks=blocks,
            batching=batching,
            num_steps=self.num_steps if train else batching.steps(len(blocks)),
            seed=self.seed if train else None,
            rank=self.trainer.global_rank if self.trainer else 0,
        )

    def train_dataloader(self) -> ResumableLoader:
        """Return the micro-batches of the whole run, as one long epoch."""
        return ResumableLoader(
            self._micro_batches(self.splits["train"], train=True),
            self.config.num_workers,
            self._pin_memory(),
        )

    def val_dataloader(self) -> list[DataLoader]:
        """Return the validation blocks in order, a loader for each source that has any.

        Each rank gets the same number of batches; padding fills them up.
        """
        return self._loaders("validation")

    def test_dataloader(self) -> list[DataLoader]:
        """Return the test blocks in order, a loader for each source that has any."""
        return self._loaders("test")

    def _loaders(self, split: str) -> list[DataLoader]:
        return [
            data_loader(self._micro_batches(blocks, train=False), 0, 0, self._pin_memory())
            for blocks in self.by_source(split).values()
        ]

    def _pin_memory(self) -> bool:
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
