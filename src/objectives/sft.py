"""Supervised fine-tuning, step 1 of InstructGPT (Ouyang et al., arXiv:2203.02155).

Cross-entropy of the responses' tokens; the prompts are read, not taught, unless
``data.prompt_loss_weight`` says how much.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import torch
from torch import Tensor

from src.data.batch import Batch
from src.data.blocks import Blocks
from src.data.conversation import RowReader
from src.data.datamodule import ChatDataModule
from src.data.order import Batching
from src.data.source import Reader, Source
from src.data.tokenizer import Tokenizer
from src.model.gpt2 import GPT2
from src.model.loss import LossSums, WeightedLossSums, prompt_weighted_loss, supervised_loss
from src.model.pretrained import load_pretrained
from src.objectives.comparison import comparison_lines
from src.objectives.positions import LossByPosition, bar_width
from src.objectives.replies import SampleReplies
from src.objectives.showcase import Showcase, exact_match_lines
from src.talk.model_folder import save_model_folder
from src.training.config import ObjectiveConfig, TrainConfig
from src.training.memory import TrainingStep
from src.training.metrics import BatchSums
from src.training.module import TrainingModule
from src.training.objective import Best
from src.training.purpose import TALKS, Purpose
from src.wording.command_line import command

LARGEST_PERPLEXITY = 1e9  # beyond it the number says nothing, and soon overflows


class SFTModule(TrainingModule):
    """GPT-2 with masked loss and masked accuracy."""

    sum_types: ClassVar = {
        "loss": torch.float32,
        "num_correct": torch.int64,
        "num_supervised": torch.int64,
    }
    train_figures: ClassVar[Sequence[str]] = ("loss", "accuracy")

    by_position: LossByPosition | None = None  # of the validations

    def sums(self, batch: Batch) -> BatchSums:
        """Return summed loss, right predictions and supervised tokens of one micro-batch."""
        return self.response_sums(batch, self.hidden(batch))

    def hidden(self, batch: Batch) -> Tensor:
        """Return the hidden states (B, T, D) of a micro-batch."""
        return self.model(
            batch["input_ids"], batch["position_ids"], batch["cu_seqlens"], batch["max_seqlen"]
        )

    def _is_validating(self) -> bool:
        return not self.training and self._trainer is not None and self._trainer.validating

    def response_sums(self, batch: Batch, hidden: Tensor) -> LossSums:
        """Return the sums over the supervised tokens."""
        if self.by_position is not None and self._is_validating():
            self.by_position.add(self.model, hidden, batch)
        return supervised_loss(self.model, hidden, batch["supervised_index"], batch["labels"])

    def figures(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Return ``loss`` (nats a token), ``accuracy``, ``perplexity`` (10^9 at most)."""
        count = max(sums["num_supervised"], 1)
        loss = sums["loss"] / count
        return {
            "loss": loss,
            "accuracy": sums["num_correct"] / count,
            "perplexity": math.exp(min(loss, math.log(LARGEST_PERPLEXITY))),
        }


class PromptWeightedModule(SFTModule):
    """Learns from prompts, too, at a weight; its figures are those of the responses alone."""

    sum_types: ClassVar = SFTModule.sum_types | {"response_loss": torch.float32}

    def __init__(self, *args: Any, prompt_weight: float, **values: Any):
        super().__init__(*args, **values)
        self.prompt_weight = prompt_weight

    def sums(self, batch: Batch) -> WeightedLossSums:
        """Return the sums of one micro-batch; held-out ones have no labels in prompts."""
        hidden = self.hidden(batch)
        if "prompt_index" not in batch:
            sums = self.response_sums(batch, hidden)
            return WeightedLossSums(response_loss=sums.loss, **sums._asdict())
        return prompt_weighted_loss(
            self.model,
            hidden,
            (batch["supervised_index"], batch["labels"]),
            (batch["prompt_index"], batch["prompt_labels"]),
            self.prompt_weight,
        )

    def figures(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Return the figures of the responses."""
        return super().figures({**sums, "loss": sums["response_loss"]})


class SFT:
    """The objective of ``SFTModule``; see ``Objective``."""

    Config: ClassVar[type[ObjectiveConfig]] = ObjectiveConfig
    reader: ClassVar[Reader] = RowReader
    best: ClassVar[Best] = Best("val/loss")
    bar: ClassVar[Mapping[str, tuple[str, str]]] = {
        "loss": ("train/loss", "{:.4f}"),
        "accuracy": ("train/accuracy", "{:.2%}"),
        "val_loss": ("val/loss", "{:.4f}"),
        "tokens/s": ("perf/tokens_per_second", "{:,.0f}"),
    }
    purpose: ClassVar[Purpose] = TALKS
    table: ClassVar[Sequence[str]] = (
        "val/loss",
        "val/accuracy",
        "test/loss",
        "test/accuracy",
        "train/loss",
    )

    def __init__(self, config: TrainConfig):
        self.config = config
        self.by_position = LossByPosition()

    def step(self, step: TrainingStep) -> TrainingStep:
        """Add nothing."""
        return step

    def learner(self, model: GPT2) -> GPT2:
        """Return the model as it is."""
        return model

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
        values: dict[str, Any] = {
            "num_steps": num_steps,
            "log_every_n_steps": self.config.trainer.log_every_n_steps,
        }
        weight = self.config.data.prompt_loss_weight
        module = (
            PromptWeightedModule(model, self.config.optimizer, prompt_weight=weight, **values)
            if weight
            else SFTModule(model, self.config.optimizer, **values)
        )
        module.by_position = self.by_position
        return module

    def describe_targets(self, blocks: Blocks) -> str:
        """Return the share of the tokens that is taught, and of those at another weight."""
        total = max(blocks.num_tokens, 1)
        text = f"{blocks.num_targets / total:.0%} of the tokens taught"
        if weight := blocks.targets.prompt_weight:
            text += f", {blocks.num_prompt_targets / total:.0%} of prompts at weight {weight:g}"
        return text

    def watchers(self, data: ChatDataModule, folder: Path) -> list[L.Callback]:
        """Return what answers the sample prompts at each validation, and looks at the loss."""
        config = self.config
        self.replies = SampleReplies(
            config.sample_prompts, data.tokenizer, config.generation, config.sample_seconds
        )
        self.showcase = Showcase(data, config, folder, config.sample_prompts)
        self.by_position.width = bar_width(data.splits["train"].targets_per_document)
        return [self.replies, self.by_position]

    def before_training(self, model: GPT2) -> None:
        """Ask the sample prompts and the dozen questions before anything is learned."""
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
        """Ask again; return exact match, if the config says so."""
        return self.showcase.score(best)

    def summary_lines(self, figures: Mapping[str, float]) -> list[str]:
        """Show the replies; return the figures of the splits, exact match and another's run."""
        self.showcase.show()
        beside = comparison_lines(self.config.reference, figures, self.showcase.rows)
        rows = self.showcase.data.report.used
        return [*split_lines(figures, rows), *exact_match_lines(figures), *beside]

    def use(self, folder: Path) -> list[str]:
        """Return the command that talks to it."""
        return [talk_line(folder)]


def talk_line(folder: Path) -> str:
    """Return the command with which a person talks to the model in ``folder``."""
    return f'talk to it:   {command("chat", model_path=folder)} prompt="Who are you?"'


def split_lines(figures: Mapping[str, float], rows: Mapping[str, int]) -> list[str]:
    """Return loss, accuracy and perplexity of the last and best validation and of the test.

    Args:
        figures: of the run.
        rows: how many each split has; where fewer were scored, a line says so.
    """
    prefixes = {"val": "num_steps", "best_val": "best_step", "test": ""}
    names = {"val": "validation, last", "best_val": "validation, best", "test": "test, by the best"}
    labels = {
        prefix: names[prefix] + (f" (step {figures[key]:,.0f})" if key in figures else "")
        for prefix, key in prefixes.items()
        if f"{prefix}/loss" in figures
    }
    width = max(map(len, labels.values()), default=0)
    return [*_split_lines(figures, labels, width), *_bounded_lines(figures, rows)]


def _bounded_lines(figures: Mapping[str, float], rows: Mapping[str, int]) -> list[str]:
    """Return on how few rows a split was measured, where not on all."""
    parts = [
        f"{split} on {figures[f'{prefix}/num_rows']:,.0f} of its {rows[split]:,} rows"
        for prefix, split in {"val": "validation", "test": "test"}.items()
        if figures.get(f"{prefix}/num_rows", rows.get(split, 0)) < rows.get(split, 0)
    ]
    return [f"measured: {', '.join(parts)}"] if parts else []


def _split_lines(figures: Mapping[str, float], labels: Mapping[str, str], width: int) -> list[str]:
    return [
        f"{label:<{width}}   loss {figures[f'{prefix}/loss']:.4f}   "
        f"accuracy {figures[f'{prefix}/accuracy']:.2%}   "
        f"perplexity {perplexity_text(figures[f'{prefix}/perplexity'])}"
        for prefix, label in labels.items()
    ]


def perplexity_text(perplexity: float) -> str:
    """Return a perplexity as people read it."""
    if perplexity >= LARGEST_PERPLEXITY * (1 - 1e-6):
        return "over 10^9"
    return f"{perplexity:,.2f}"
