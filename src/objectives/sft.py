"""Supervised fine-tuning, step 1 of InstructGPT (Ouyang et al., arXiv:2203.02155).

Cross-entropy of the responses' tokens; the prompts are read, not taught.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import lightning as L
import torch

from src.data.batch import Batch
from src.data.blocks import Blocks
from src.data.datamodule import ChatDataModule
from src.data.order import Batching
from src.data.sources import Source
from src.data.tokenizer import Tokenizer
from src.model.gpt2 import GPT2
from src.model.loss import LossSums, supervised_loss
from src.model.pretrained import load_pretrained
from src.objectives.replies import SampleReplies
from src.objectives.showcase import Showcase, exact_match_lines
from src.talk.model_folder import save_model_folder
from src.training.config import ObjectiveConfig, TrainConfig
from src.training.memory import TrainingStep
from src.training.module import TrainingModule
from src.training.objective import Best


class SFTModule(TrainingModule):
    """GPT-2 with masked loss and masked accuracy."""

    sum_types: ClassVar = {
        "loss": torch.float32,
        "num_correct": torch.int64,
        "num_supervised": torch.int64,
    }
    train_figures: ClassVar[Sequence[str]] = ("loss", "accuracy")

    def sums(self, batch: Batch) -> LossSums:
        """Return summed loss, right predictions and supervised tokens of one micro-batch."""
        hidden = self.model(
            batch["input_ids"], batch["position_ids"], batch["cu_seqlens"], batch["max_seqlen"]
        )
        return supervised_loss(self.model, hidden, batch["supervised_index"], batch["labels"])

    def figures(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Return ``loss`` (nats a token), ``accuracy`` and ``perplexity``."""
        count = max(sums["num_supervised"], 1)
        loss = sums["loss"] / count
        return {
            "loss": loss,
            "accuracy": sums["num_correct"] / count,
            "perplexity": math.exp(min(loss, 700.0)),
        }


class SFT:
    """The objective of ``SFTModule``; see ``Objective``."""

    Config: ClassVar[type[ObjectiveConfig]] = ObjectiveConfig
    best: ClassVar[Best] = Best("val/loss")
    bar: ClassVar[Mapping[str, tuple[str, str]]] = {
        "loss": ("train/loss", "{:.4f}"),
        "accuracy": ("train/accuracy", "{:.2%}"),
        "val_loss": ("val/loss", "{:.4f}"),
        "tokens/s": ("perf/tokens_per_second", "{:,.0f}"),
    }
    table: ClassVar[Sequence[str]] = (
        "best_val/loss",
        "best_val/accuracy",
        "test/loss",
        "test/accuracy",
    )

    def __init__(self, config: TrainConfig):
        self.config = config

    def step(self, step: TrainingStep) -> TrainingStep:
        """Add nothing."""
        return step

    def data(
        self,
        tokenizer: Tokenizer,
        source: Source,
        *,
        block_size: int,
        max_length: int,
        batching: Batching,
    ) -> ChatDataModule:
        """Return packed rows with their labels."""
        return ChatDataModule(
            self.config.data,
            tokenizer,
            source,
            block_size=block_size,
            max_length=max_length,
            batching=batching,
            max_steps=self.config.max_steps,
            max_epochs=self.config.max_epochs or 1,
            seed=self.config.seed,
        )

    def module(self, model: GPT2, num_steps: int) -> SFTModule:
        """Return the module whose ``model`` learns."""
        return SFTModule(
            model,
            self.config.optimizer,
            num_steps=num_steps,
            log_every_n_steps=self.config.trainer.log_every_n_steps,
        )

    def describe_targets(self, blocks: Blocks) -> str:
        """Return the share of the tokens that is taught."""
        return f"{blocks.num_targets / max(blocks.num_tokens, 1):.0%} of the tokens taught"

    def watchers(self, data: ChatDataModule, folder: Path) -> list[L.Callback]:
        """Return what answers the sample prompts at each validation."""
        config = self.config
        self.replies = SampleReplies(
            config.sample_prompts, data.tokenizer, config.generation, config.sample_seconds
        )
        self.showcase = Showcase(data, config, folder)
        return [self.replies]

    def before_training(self, model: GPT2) -> None:
        """Ask the dozen questions before anything is learned."""
        self.showcase.ask_before(model)

    def without_validation(self, trainer: L.Trainer, module: TrainingModule) -> None:
        """Answer the sample prompts."""
        self.replies.ask(trainer, module)

    def save(self, model: GPT2, folder: Path, tokenizer: Tokenizer) -> None:
        """Write a model folder that talks."""
        save_model_folder(folder, model, tokenizer, self.config.generation)

    def load(self, folder: Path) -> GPT2:
        """Return the model of the folder."""
        return load_pretrained(str(folder))

    def final_figures(self, best: GPT2) -> dict[str, float]:
        """Return exact match, if the config says so."""
        return self.showcase.score(best)

    def summary_lines(self, figures: Mapping[str, float]) -> list[str]:
        """Show the dozen questions; return the figures of the splits and exact match."""
        self.showcase.show()
        return [*split_lines(figures), *exact_match_lines(figures)]


def split_lines(figures: Mapping[str, float]) -> list[str]:
    """Return loss, accuracy and perplexity of the last and best validation and of the test."""
    return [
        f"{label:<6}loss {figures[f'{prefix}/loss']:.4f}   accuracy "
        f"{figures[f'{prefix}/accuracy']:.2%}   perplexity {figures[f'{prefix}/perplexity']:.2f}"
        for label, prefix in (("last", "val"), ("best", "best_val"), ("test", "test"))
        if f"{prefix}/loss" in figures
    ]
