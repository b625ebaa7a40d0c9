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
from src.data.order import Batching, MicroBatches, ResumableLoader, data_loader
from src.data.sources import SPLITS, RowReport, Source, open_source
from src.data.targets import Targets
from src.data.template import PROMPT_HEADER, RESPONSE_HEADER
from src.data.tokenizer import Tokenizer, load_tokenizer, train_tokenizer


class ChatDataModule(L.LightningDataModule):
    """Packs chat rows into blocks and serves them in global batches.

    Args:
        config: the values of ``conf/data``.
        tokenizer: what encodes the rows.
        source: where the rows come from.
        block_size: positions of a block.
        max_length: tokens of an example, at most; None: a block.
        batching: how a global batch is cut.
        max_steps: optimizer steps of the run; None: ``max_epochs`` tells.
        max_epochs: how often each block is seen.
        seed: decides the order of the blocks.
        targets: what is due in a batch; None: labels.

    Raises:
        UserError: from ``setup``, if the rows cannot be had or used.
    """

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
        self.config = config
        self.tokenizer = tokenizer
        self.source = source
        self.block_size = block_size
        self.max_length = max_length
        self.batching = batching
        self.max_steps = max_steps
        self.max_epochs = max_epochs
        self.seed = seed
        self.targets = targets
        self.report = RowReport()
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
                self.block_size,
                self.config.packing or split != "train",
                self.tokenizer.end_id,
                max_length=self.max_length,
                targets=self.targets,
            )

    @property
    def key(self) -> str:
        """The hash that names the corpus."""
        return corpus_key(self.source, self.tokenizer, self.config.supervise)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps that see every training block once."""
        return -(-len(self.splits["train"]) // self.batching.batch_size)

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the run."""
        return self.max_steps or self.max_epochs * self.steps_per_epoch

    def shared_prompts(self, split: str) -> int:
        """Return how many examples of ``split`` have a first prompt that train has too."""
        prompts = {name: blocks.corpus.prompts[blocks.kept] for name, blocks in self.splits.items()}
        return int(np.isin(prompts[split], prompts["train"]).sum())

    def conversations(self, split: str) -> list[Conversation]:
        """Read the conversations of one split again, as text."""
        pairs = self.source.conversations(RowReport())
        return [conversation for name, conversation in pairs if name == split]

    def _micro_batches(self, split: str) -> MicroBatches:
        blocks, batching = self.splits[split], self.batching
        train = split == "train"
        together = batching.micro_batch_size * batching.num_devices
        batch_size = batching.batch_size if train else together
        return MicroBatches(
            blocks=blocks,
            batch_size=batch_size,
            micro_batch_size=batching.micro_batch_size,
            num_steps=self.num_steps if train else -(-len(blocks) // batch_size),
            seed=self.seed if train else None,
            rank=self.trainer.global_rank if self.trainer else 0,
            world_size=batching.num_devices,
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
