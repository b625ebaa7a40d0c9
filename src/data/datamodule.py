"""ChatDataModule: from a dataset's name to batches, for Lightning.

Its corpus is built (or found) and packed in ``setup``, which the doors call themselves: the
preflight report wants its figures before a Trainer exists.
"""

from pathlib import Path

import lightning as L
import numpy as np
from torch.utils.data import DataLoader

from src.data.blocks import Blocks
from src.data.config import DataConfig
from src.data.conversation import Conversation
from src.data.corpus import Corpus, build_corpus, corpus_key, read_report
from src.data.order import MicroBatches, ResumableLoader, data_loader, micro_batch_size
from src.data.sources import SPLITS, RowReport, Source, open_source
from src.data.template import PROMPT_HEADER, RESPONSE_HEADER
from src.data.tokenizer import Tokenizer, load_tokenizer, train_tokenizer


class ChatDataModule(L.LightningDataModule):
    """Packs chat rows into blocks and serves them in global batches.

    Args:
        config: the values of ``conf/data``.
        tokenizer: what encodes the rows.
        source: where the rows come from.
        batch_size: blocks of one optimizer step, over all devices and micro-batches.
        micro_batch_size: blocks on a device at a time, at most.
        num_steps: optimizer steps of the run; None: one epoch's.
        seed: decides the order of the blocks.

    Raises:
        UserError: from ``setup``, if the rows cannot be had or used.
    """

    def __init__(
        self,
        config: DataConfig,
        tokenizer: Tokenizer,
        source: Source,
        *,
        batch_size: int,
        micro_batch_size: int,
        num_steps: int | None,
        seed: int,
    ):
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.source = source
        self.batch_size = batch_size
        self.at_most = micro_batch_size
        self.num_steps = num_steps
        self.seed = seed
        self.report: RowReport | None = None
        self.splits: dict[str, Blocks] = {}

    def prepare_data(self) -> None:
        """Build the corpus unless it is there."""
        self.folder = build_corpus(
            self.source, self.tokenizer, self.config.supervise, Path(self.config.corpus_dir)
        )

    def setup(self, stage: str | None = None) -> None:
        """Open the corpus and pack it; once."""
        if self.splits:
            return
        self.prepare_data()
        self.report = read_report(self.folder)
        for split in SPLITS:
            corpus = Corpus.open(self.folder / split)
            # Unpacked validation would measure the same in eleven times the time.
            self.splits[split] = Blocks.build(
                corpus,
                self.config.block_size,
                self.config.packing or split != "train",
                self.tokenizer.end_id,
            )

    @property
    def key(self) -> str:
        """The hash that names the corpus."""
        return corpus_key(self.source, self.tokenizer, self.config.supervise)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps that see every training block once."""
        return -(-len(self.splits["train"]) // self.batch_size)

    def shared_prompts(self, split: str) -> int:
        """Return how many examples of ``split`` have a first prompt that train has too."""
        prompts = {name: blocks.corpus.prompts[blocks.kept] for name, blocks in self.splits.items()}
        return int(np.isin(prompts[split], prompts["train"]).sum())

    def conversations(self, split: str) -> list[Conversation]:
        """Read the conversations of one split again, as text."""
        pairs = self.source.conversations(RowReport())
        return [conversation for name, conversation in pairs if name == split]

    def _micro_batches(self, split: str) -> MicroBatches:
        trainer = self.trainer
        rank, world_size = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        train = split == "train"
        size = micro_batch_size(self.batch_size, world_size, self.at_most)
        blocks = self.splits[split]
        batch_size = self.batch_size if train else size * world_size
        steps = -(-len(blocks) // batch_size)
        return MicroBatches(
            blocks=blocks,
            batch_size=batch_size,
            micro_batch_size=size,
            num_steps=(self.num_steps or steps) if train else steps,
            seed=self.seed if train else None,
            rank=rank,
            world_size=world_size,
        )

    def train_dataloader(self) -> ResumableLoader:
        """Return the micro-batches of the whole run, as one long epoch."""
        return ResumableLoader(
            self._micro_batches("train"), self.config.num_workers, self._pin_memory()
        )

    def val_dataloader(self) -> DataLoader:
        """Return the validation blocks in order; every rank gets as many, some only padding."""
        return data_loader(self._micro_batches("validation"), 0, 0, self._pin_memory())

    def test_dataloader(self) -> DataLoader:
        """Return the test blocks in order."""
        return data_loader(self._micro_batches("test"), 0, 0, self._pin_memory())

    def _pin_memory(self) -> bool:
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"


def open_data(
    config: DataConfig, tokenizer_name: str | None, vocab_size: int
) -> tuple[Source, Tokenizer]:
    """Open the source and load its tokenizer; train one on the training rows if none is named.

    Raises:
        UserError: one of them cannot be had.
    """
    source = open_source(config)
    if tokenizer_name is not None:
        return source, load_tokenizer(tokenizer_name)
    texts = (
        f"{PROMPT_HEADER}{prompt}\n{RESPONSE_HEADER} {response}"
        for split, conversation in source.conversations(RowReport())
        if split == "train"
        for prompt, response in conversation.turns
    )
    return source, train_tokenizer(texts, vocab_size)
