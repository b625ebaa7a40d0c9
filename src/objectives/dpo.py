"""Direct preference optimisation (Rafailov et al., arXiv:2305.18290): no reward model.

The policy learns to prefer what people preferred, by more than the reference does. The implicit
reward of a reply is beta times the log-ratio of its probabilities under policy and reference.
"""

import copy
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import lightning as L

from src.data.blocks import Blocks
from src.data.comparison_reader import ComparisonReader
from src.data.datamodule import ChatDataModule
from src.data.order import Batching
from src.data.source import Reader, Source
from src.data.tokenizer import Tokenizer
from src.errors import UserError
from src.model.gpt2 import GPT2
from src.model.pretrained import load_pretrained
from src.model.rollout import Sampling
from src.objectives.comparisons import comparison_data
from src.objectives.divergence import Divergence
from src.objectives.dpo_module import DPOConfig, DPOModule
from src.objectives.kept_reference import KeptReference
from src.objectives.reference import Reference, with_reference
from src.objectives.replies import SampleReplies
from src.objectives.reply_figures import ReplyFigures
from src.objectives.sft import talk_line
from src.objectives.showcase import Showcase
from src.talk.model_folder import save_model_folder
from src.training.config import ObjectiveConfig, TrainConfig
from src.training.lora import merged
from src.training.memory import TrainingStep
from src.training.module import TrainingModule
from src.training.objective import Best
from src.training.purpose import TALKS, Purpose

log = logging.getLogger(__name__)


class DPO:
    """The objective of ``DPOModule``; see ``Objective``."""

    Config: ClassVar[type[ObjectiveConfig]] = DPOConfig
    reader: ClassVar[Reader] = ComparisonReader
    best: ClassVar[Best] = Best("val/loss")
    bar: ClassVar[Mapping[str, tuple[str, str]]] = {
        "loss": ("train/loss", "{:.4f}"),
        "accuracy": ("train/accuracy", "{:.2%}"),
        "val_loss": ("val/loss", "{:.4f}"),
        "tokens/s": ("perf/tokens_per_second", "{:,.0f}"),
    }
    purpose: ClassVar[Purpose] = TALKS._replace(
        does="answers questions as people preferred",
        figures=(
            "Loss is in nats a prompt; accuracy is the share of the pairs of replies in which the "
            "one that people preferred has gained more likelihood over the reference."
        ),
    )
    table: ClassVar[Sequence[str]] = (
        "val/loss",
        "val/accuracy",
        "val/chosen_logratio",
        "val/kl",
        "test/loss",
        "test/accuracy",
    )

    def __init__(self, config: TrainConfig):
        self.config = config
        self.values: DPOConfig = config.objective

    def step(self, step: TrainingStep) -> TrainingStep:
        """Say that log-probabilities are made; the reference takes no memory while one learns."""
        self.machine = step
        return replace(step, head="logprobs")

    def learner(self, model: GPT2) -> GPT2:
        """Return the model as it is; the reference is what it is now."""
        self.start: GPT2 | None = copy.deepcopy(model) if self.config.continue_from else None
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
        """Return packed comparisons."""
        self.rows = comparison_data(
            self.config, tokenizer, source, block_size, max_length, batching
        )
        return self.rows

    def module(self, model: GPT2, num_steps: int) -> DPOModule:
        """Return the module whose ``model`` learns; compute what the reference says first.

        Raises:
            UserError: the reference cannot be loaded, or has another vocabulary.
        """
        reference = self._reference(model)
        self.rows.splits = with_reference(
            self.rows.splits, reference, self.rows.key, Path(self.config.data.corpus_dir)
        )
        self.rows.parts.clear()  # the report has asked for parts of the splits as they were
        self.kept = KeptReference(reference.model, reference.checksum, self._load)
        self.start, self.reference = None, replace(reference, model=model)  # another is not held
        return DPOModule(
            model,
            self.config.optimizer,
            objective=self.values,
            reference=reference.checksum,
            num_steps=num_steps,
            log_every_n_steps=self.config.trainer.log_every_n_steps,
        )

    def _reference(self, model: GPT2) -> Reference:
        name = self.values.reference
        if name is None:
            start = self.start or merged(model)
        else:
            start = load_pretrained(name, key="objective.reference")
            if start.config.vocab_size != model.config.vocab_size:
                raise UserError(
                    f"objective.reference={name} has {start.config.vocab_size} tokens, and the "
                    f"model that learns {model.config.vocab_size}"
                )
        size = self.rows.batching.micro_batch_size
        return Reference(start, self.machine.device, self.machine.precision, size)

    @property
    def _load(self) -> Callable[[], GPT2] | None:
        """What may read the reference again, if it came from a folder."""
        model, key = self.config.model, "objective.reference"
        if self.values.reference is not None:
            return partial(load_pretrained, self.values.reference, key=key)
        if model.pretrained is not None:
            return partial(load_pretrained, model.pretrained, activation=model.activation, key=key)
        return None

    def describe_targets(self, blocks: Blocks) -> str:
        """Return how many prompts there are, and replies."""
        return f"{blocks.num_targets:,} prompts with {blocks.num_examples:,} replies"

    def watchers(self, data: ChatDataModule, folder: Path) -> list[L.Callback]:
        """Return what answers the sample prompts and validation prompts at each validation."""
        config = self.config
        self.kept.write(folder, partial(self.save, tokenizer=data.tokenizer))
        self.replies = SampleReplies(
            config.sample_prompts,
            data.tokenizer,
            config.generation,
            config.sample_seconds,
            self.kept,
        )
        self.showcase = Showcase(data, config, folder, config.sample_prompts, asks_rows=False)
        figures = ReplyFigures(data, config.generation, self.values.num_replies)
        return [self.replies, figures, self._divergence(figures, data)]

    def _divergence(self, figures: ReplyFigures, data: ChatDataModule) -> Divergence:
        positions = data.max_length or data.block_size
        most = min(self.config.generation.max_new_tokens, positions // 2)
        prompts = [prompt for prompt in figures.prompts if len(prompt) + most <= positions]
        sampling = Sampling(
            seed=self.config.seed,
            temperature=1.0,
            max_new_tokens=most,
            end_id=data.tokenizer.end_id,
            num_slots=max(1, len(prompts)),
        )
        return Divergence(prompts, sampling, self.kept)

    def before_training(self, model: GPT2) -> None:
        """Ask the sample prompts; check that policy and reference are one model, if they should be.

        Raises:
            UserError: they give other log-probabilities, so that no later figure would be true.
        """
        self.showcase.ask_before(model)
        if self.values.reference is not None or self.config.continue_from:
            return
        largest = self.reference.check_start(model, self.rows.splits["train"])
        loss = f", and the loss {math.log(2):.6f}" if self.values.loss != "ipo" else ""
        log.info(
            "before the first step all rewards are 0 (within %.1g)%s",
            self.values.beta * largest,
            loss,
        )

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
        """Ask the sample prompts again; return nothing more."""
        return self.showcase.score(best)

    def summary_lines(self, figures: Mapping[str, float]) -> list[str]:
        """Show the replies; return the figures, and what became of the replies people chose."""
        self.showcase.show()
        return dpo_lines(figures, self.values.most_sinking)

    def use(self, folder: Path) -> list[str]:
        """Return the command that talks to it."""
        return [talk_line(folder)]


def dpo_lines(figures: Mapping[str, float], most_sinking: float) -> list[str]:
    """Return loss, accuracy and log-ratios of the last and best validation and of the test."""
    names = {"val": "validation, last", "best_val": "validation, best", "test": "test, by the best"}
    there = [prefix for prefix in names if f"{prefix}/loss" in figures]
    width = max((len(names[prefix]) for prefix in there), default=0)
    lines = [
        f"{names[prefix]:<{width}}   loss {figures[f'{prefix}/loss']:.4f}   accuracy "
        f"{figures[f'{prefix}/accuracy']:.1%}   chosen "
        f"{figures[f'{prefix}/chosen_logratio']:+z.2f}, rejected "
        f"{figures[f'{prefix}/rejected_logratio']:+z.2f} nats"
        + (f"   KL {figures[f'{prefix}/kl']:z.2f} nats" if f"{prefix}/kl" in figures else "")
        for prefix in there
    ]
    if figures.get("best_val/chosen_logratio", 0.0) < -most_sinking:
        lines.append(
            "the chosen replies have become unlikely: raise objective.beta or objective.sft_weight"
        )
    return lines
