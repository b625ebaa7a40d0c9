"""What the replies of a policy are like as it learns: how long, how repetitive, do they end."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import closing
from itertools import islice

import lightning as L

from src import phases
from src.data.datamodule import ChatDataModule
from src.model.generation import generate
from src.model.generation_config import GenerationConfig
from src.model.gpt2 import GPT2
from src.objectives.probes import preferred
from src.training.module import TrainingModule

REPEATED = 4  # tokens of an n-gram

log = logging.getLogger(__name__)


class PromptFigures(L.Callback, ABC):
    """Logs figures of what a policy says to the same prompts at each validation."""

    prompts: Sequence[Sequence[int]]  # none: nothing is asked

    @abstractmethod
    def figures(self, model: GPT2) -> dict[str, float]:
        """Return the figures of ``model``, by their names in the log."""

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Ask, and log."""
        assert isinstance(module, TrainingModule)
        if not self.prompts:
            return
        model = module.plain_model()
        if not trainer.is_global_zero:
            return
        with phases.phase("replies"):
            figures = self.figures(model)
        if figures:
            module.log_figures(figures)


class ReplyFigures(PromptFigures):
    """Answers the same validation prompts at each validation and logs figures of the replies.

    ``val/reply_tokens``: their mean length; ``val/reply_ended``: the share that came to its end;
    ``val/reply_repetition``: the share of 4-grams of tokens that stood earlier in the same reply
    (Welleck et al., arXiv:1908.04319). They are logged, and choose no weights.

    Args:
        data: whose validation prompts are asked.
        generation: how they are answered.
        num_prompts: at most; 0: none.
    """

    def __init__(self, data: ChatDataModule, generation: GenerationConfig, num_prompts: int):
        self.generation = generation.unpacked()
        positions = data.max_length or data.block_size
        fitting = (
            reply.prompt
            for reply in preferred(data.splits["validation"])
            if len(reply.prompt) < positions
        )
        self.prompts = list(islice(fitting, num_prompts))
        self.end_id = data.tokenizer.end_id

    def figures(self, model: GPT2) -> dict[str, float]:
        """Return those of its answers."""
        replies = answers(model, self.prompts, self.end_id, self.generation)
        figures = reply_figures(replies, self.generation.max_new_tokens)
        return {f"val/{name}": value for name, value in figures.items()}


def answers(
    model: GPT2, prompts: Sequence[Sequence[int]], end_id: int, generation: GenerationConfig
) -> list[list[int]]:
    """Return the ids of the reply to each prompt, without the end token."""
    replies: list[list[int]] = [[] for _ in prompts]
    with closing(generate(model, prompts, [end_id], generation)) as steps:
        for step in steps:
            for reply, token in zip(replies, step, strict=True):
                if token is not None:
                    reply.append(token)
    return replies


def reply_figures(replies: Sequence[Sequence[int]], max_new_tokens: int) -> dict[str, float]:
    """Return the figures of replies (ids without end token); those that are full did not end."""
    counts = [len(reply) for reply in replies]
    grams = [
        list(zip(*(reply[start:] for start in range(REPEATED)), strict=False)) for reply in replies
    ]
    num_grams = sum(map(len, grams))
    repeated = num_grams - sum(len(set(each)) for each in grams)
    return {
        "reply_tokens": sum(counts) / len(counts),
        "reply_ended": sum(count < max_new_tokens for count in counts) / len(counts),
        "reply_repetition": repeated / max(num_grams, 1),
    }
