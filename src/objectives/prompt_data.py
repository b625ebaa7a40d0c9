"""The data of a policy that learns from its own replies: prompts, and the loader of rollouts."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader

from src.data.blocks import Blocks
from src.data.comparison import Context
from src.data.comparison_datamodule import refuse_settings_of_conversations
from src.data.config import DataConfig
from src.data.corpus import Corpus
from src.data.datamodule import ChatDataModule
from src.data.order import in_passes
from src.data.prompts import PromptReader, answers
from src.data.report import RowReport
from src.data.source import Reader
from src.data.subset import some_units
from src.objectives.experience import GPU_MULTIPLE, Deal, ExperienceLoader


class Asked(NamedTuple):
    """A prompt as text.

    Attributes:
        prompt: what was said last.
        has_history: whether something stands before it.
        answer: the reply of the row, if it has one.
    """

    prompt: str
    has_history: bool
    answer: str | None


class PromptDataModule(ChatDataModule):
    """Serves prompts, one a block, and what a policy makes of them; see ``ChatDataModule``.

    A row's own reply is left out. A prompt that leaves no room for a reply is dropped and counted.

    Args:
        config: the values of ``conf/data``.
        num_minibatches: optimizer steps that an iteration's replies make.
        num_epochs: times that they are gone over.
        num_replies: to each prompt of an iteration.
        positions: of a prompt and its reply.
        max_new_tokens: of a reply.

    Raises:
        UserError: a setting of ``data`` is for conversations alone.
    """

    reader: ClassVar[Reader] = PromptReader
    unit: ClassVar[str] = "prompts"

    def __init__(
        self,
        config: DataConfig,
        *args: Any,
        num_minibatches: int,
        num_epochs: int,
        num_replies: int,
        positions: int,
        max_new_tokens: int,
        **values: Any,
    ):
        refuse_settings_of_conversations(config, "prompts")
        # The end token stands for the reply.
        values |= {"block_size": positions, "max_length": positions - max_new_tokens + 1}
        super().__init__(replace(config, packing=False), *args, **values)
        self.num_minibatches, self.num_epochs = num_minibatches, num_epochs
        self.num_replies = num_replies
        self.loader: ExperienceLoader | None = None

    def _pack(self, corpus: Corpus, copies: np.ndarray | None = None) -> Blocks:
        """Return the prompts of a held-out split, one a block."""
        return Blocks.build(
            corpus,
            self.block_size,
            packing=False,
            end_id=self.tokenizer.end_id,
            max_length=self.max_length,
            copies=copies,
        )

    def by_source(self, split: str) -> dict[str, Blocks]:
        """Return the prompts of each source of a split, or so many as its ``limits`` say."""
        if split not in self.parts:
            whole = self.splits[split]
            most = self.limits[split] or 1 if self.is_bounded(split) else len(whole)
            self.parts[split] = self._pack_by_source(whole, some_units(whole, most))
        return self.parts[split]

    @property
    def deal(self) -> Deal:
        """Which replies make which micro-batch."""
        return Deal(self.batching, self.num_minibatches, self.num_epochs, self.seed)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in which every prompt comes once."""
        num_prompts = len(self.splits["train"]) * self.num_replies
        return -(-num_prompts // self.deal.num_replies) * self.deal.steps

    @property
    def num_learned(self) -> int:
        """Replies of the run, each as often as it is learned from."""
        return self.num_steps * self.batching.batch_size

    def of_iteration(self, iteration: int) -> np.ndarray:
        """Return the numbers of the prompts (replies,) of an iteration; equal ones side by side."""
        count = self.deal.num_replies // self.num_replies
        num_prompts = len(self.splits["train"])
        chosen = in_passes(num_prompts, self.seed, iteration * count, count)
        return np.repeat(chosen, self.num_replies)

    def held_out(self, split: str) -> np.ndarray:
        """Return the numbers of the prompts of a held-out split that are answered."""
        blocks = self.splits[split]
        units = [part.corpus_units for part in self.by_source(split).values()]
        chosen = np.concatenate([np.zeros(0, dtype=np.int64), *units])
        return np.flatnonzero(np.isin(blocks.corpus_index, chosen))

    def prompts(self, split: str, numbers: Sequence[int]) -> list[list[int]]:
        """Return the token ids of prompts of a split."""
        blocks = self.splits[split]
        rows = (blocks.corpus.example(int(blocks.corpus_index[number])) for number in numbers)
        return [row.input_ids[:-1].tolist() for row in rows]

    def asked(self, split: str) -> list[Asked]:
        """Return the prompts of a split as text, by their numbers."""
        return self._asked[split]

    @cached_property
    def _asked(self) -> dict[str, list[Asked]]:
        """The prompts of all splits, read again."""
        answer_to = answers(self.source)
        rows: dict[str, list[Asked]] = defaultdict(list)
        for split, row in self.source.read(RowReport()):
            turns, prompt, system, opening = context = _context(row)
            history = bool(turns or system or opening)
            rows[split].append(Asked(prompt, history, answer_to.get(context)))
        return {
            split: [rows[split][unit] for unit in blocks.corpus_index.tolist()]
            for split, blocks in self.splits.items()
        }

    def train_dataloader(self) -> Any:
        """Return the rollouts of the whole run, as one long epoch."""
        trainer: Any = self.trainer
        self.loader = ExperienceLoader(
            self.deal,
            self.num_steps,
            trainer.lightning_module.collect,
            trainer.global_rank,
            self.tokenizer.end_id,
            self.multiple,
        )
        return self.loader

    @property
    def multiple(self) -> int:
        """What the positions of a micro-batch are a multiple of: a GPU has few shapes."""
        return GPU_MULTIPLE if self._pin_memory() else 1

    def _loaders(self, split: str) -> list[DataLoader]:
        """Return a loader of one item: the numbers of the prompts that this rank answers."""
        trainer: Any = self.trainer
        mine = self.held_out(split)[trainer.global_rank :: trainer.world_size]
        items: Any = [{"prompt_numbers": torch.from_numpy(mine)}]
        return [DataLoader(items, batch_size=None, generator=torch.Generator())]


def _context(row: Any) -> Context:
    return Context(row.turns[:-1], row.turns[-1][0], row.system, row.opening)
