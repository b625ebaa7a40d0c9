"""A reward model, the first half of step 2 of InstructGPT (Ouyang et al., arXiv:2203.02155, 3.5).

GPT-2 with a head of one number, read at the last token of each reply, learns which of two replies
to a prompt people prefer. Its rewards are centred: the mean over the validation replies is 0.

Shape letters: B blocks, T positions, D width, N replies, P pairs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, cast

import lightning as L
import torch
from torch import Tensor

from src.checks import at_least, check, within
from src.data.blocks import Blocks
from src.data.comparison_reader import ComparisonReader
from src.data.comparison_targets import ComparisonBatch
from src.data.datamodule import ChatDataModule
from src.data.order import Batching
from src.data.source import Reader, Source
from src.data.tokenizer import Tokenizer
from src.model.gpt2 import GPT2
from src.model.scalar import ScalarGPT2, resized
from src.objectives.calibration import PICTURE, Calibration
from src.objectives.comparisons import comparison_data
from src.objectives.pairs import bradley_terry, differences
from src.objectives.preference_sums import NAMES, preference_figures, preference_sums
from src.objectives.probes import probe, probe_lines
from src.talk.reward_folder import load_reward_folder, save_reward_folder
from src.training.config import ObjectiveConfig, TrainConfig
from src.training.memory import TrainingStep
from src.training.metrics import NamedSums
from src.training.module import TrainingModule
from src.training.objective import Best
from src.training.purpose import Purpose


@dataclass
class RewardConfig(ObjectiveConfig):
    """The values of ``conf/objective/reward.yaml``."""

    margin: Annotated[float, at_least(0)]
    label_smoothing: Annotated[float, within("[0, 0.5)")]
    centring: Annotated[float, at_least(0)]
    num_probes: Annotated[int, at_least(0)]

    def __post_init__(self) -> None:
        """Check ranges; raise UserError naming the key."""
        check(self, "objective.")


class RewardModule(TrainingModule):
    """The pairwise loss of Bradley and Terry; each prompt counts once."""

    sum_types: ClassVar = dict.fromkeys(NAMES, torch.float32)
    train_figures: ClassVar[Sequence[str]] = ("loss", "accuracy")
    folder: ClassVar[str] = "reward_model"

    def __init__(self, *args: Any, objective: RewardConfig, **values: Any):
        super().__init__(*args, **values)
        self.objective = objective

    def sums(self, batch: Any) -> NamedSums:
        """Return the sums of one micro-batch: of the loss, of pairs and of replies."""
        rewards = batch_rewards(cast(ScalarGPT2, self.model), batch)
        pairs, weight = batch["pairs"], batch["pair_weight"]
        margins = differences(rewards, pairs)
        config = self.objective
        losses = bradley_terry(margins - config.margin, config.label_smoothing)
        loss = (weight * losses).sum()
        if config.centring:
            better, worse = pairs.unbind(1)
            both = rewards.index_select(0, better) + rewards.index_select(0, worse)
            loss = loss + config.centring * (weight * both.square()).sum()
        lengths = torch.zeros_like(rewards).index_add_(
            0, batch["owner"], torch.ones_like(batch["owner"], dtype=rewards.dtype)
        )
        of_all = preference_sums(
            rewards.detach(),
            lengths,
            margins=margins.detach(),
            longer_by=differences(lengths, pairs),
            gaps=-differences(batch["ranks"], pairs),
            weight=weight,
        )
        return NamedSums(loss=loss, **of_all)

    def figures(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Return those of ``preference_figures``."""
        return preference_figures(sums)

    @property
    def offset(self) -> float:
        """The mean reward of the validation replies; 0 before any validation."""
        return self.latest.get("val/reward_mean", 0.0)


def batch_rewards(model: ScalarGPT2, batch: ComparisonBatch) -> Tensor:
    """Return the reward (N,) of each reply of a batch, in fp32, with a gradient."""
    hidden = model(
        batch["input_ids"], batch["position_ids"], batch["cu_seqlens"], batch["max_seqlen"]
    )
    return model.rewards(hidden, batch["last_index"])


PYTHON = """\
```python
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

path = "."  # this folder, or its name on the hub
tokenizer = AutoTokenizer.from_pretrained(path)
model = AutoModelForSequenceClassification.from_pretrained(path).eval()
messages = [
    {"role": "user", "content": "Who are you?"},
    {"role": "assistant", "content": "A model."},
]
inputs = tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=True)
with torch.no_grad():
    print(model(**inputs).logits.item())
```"""

SCORES = Purpose(
    task="text-classification",
    tag="reward-model",
    does="says how much people would like a reply, as a number",
    how=(
        "## How to score with it\n\n"
        "With [transformers](https://huggingface.co/docs/transformers); in a batch, its pad token "
        f"stands behind a reply's end token:\n\n{PYTHON}"
    ),
    figures=(
        "Loss is in nats a prompt; accuracy is the share of the pairs of replies that it puts in "
        "people's order. Differences of rewards are log-odds; their mean over the validation "
        "replies is 0."
    ),
    limit="Replies that are made to please it please people less: look at them, too.",
)


class Reward:
    """The objective of ``RewardModule``; see ``Objective``."""

    Config: ClassVar[type[ObjectiveConfig]] = RewardConfig
    reader: ClassVar[Reader] = ComparisonReader
    best: ClassVar[Best] = Best("val/loss")
    bar: ClassVar[Mapping[str, tuple[str, str]]] = {
        "loss": ("train/loss", "{:.4f}"),
        "accuracy": ("train/accuracy", "{:.2%}"),
        "val_loss": ("val/loss", "{:.4f}"),
        "tokens/s": ("perf/tokens_per_second", "{:,.0f}"),
    }
    purpose: ClassVar[Purpose] = SCORES
    table: ClassVar[Sequence[str]] = (
        "val/loss",
        "val/accuracy",
        "val/calibration_error",
        "test/loss",
        "test/accuracy",
    )

    def __init__(self, config: TrainConfig):
        self.config = config
        self.calibration = Calibration(self.best)

    def step(self, step: TrainingStep) -> TrainingStep:
        """Leave out the scores of next tokens."""
        return replace(step, head="number")

    def learner(self, model: GPT2) -> ScalarGPT2:
        """Return a reward model with the weights of ``model`` and a new head."""
        return ScalarGPT2.of(model)

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

    def module(self, model: GPT2, num_steps: int) -> RewardModule:
        """Return the module whose ``model`` learns."""
        cast(ScalarGPT2, model).score.requires_grad_()  # beside adapters, too
        self.trained = RewardModule(
            model,
            self.config.optimizer,
            objective=self.config.objective,
            num_steps=num_steps,
            log_every_n_steps=self.config.trainer.log_every_n_steps,
        )
        return self.trained

    def describe_targets(self, blocks: Blocks) -> str:
        """Return how many prompts there are, and replies."""
        return f"{blocks.num_targets:,} prompts with {blocks.num_examples:,} replies"

    def watchers(self, data: ChatDataModule, folder: Path) -> list[L.Callback]:
        """Return what looks at the calibration."""
        self.folder = folder
        return [self.calibration]

    def before_training(self, model: GPT2) -> None:
        """Do nothing."""

    def without_validation(self, trainer: L.Trainer, module: TrainingModule) -> None:
        """Do nothing."""

    def save(self, model: GPT2, folder: Path, tokenizer: Tokenizer) -> None:
        """Write a folder that scores, with centred rewards."""
        save_reward_folder(folder, cast(ScalarGPT2, model), tokenizer, self.trained.offset)

    def load(self, folder: Path) -> ScalarGPT2:
        """Return the model of the folder, with the vocabulary that it was trained with."""
        vocab_size = self.trained.model.config.vocab_size
        return resized(load_reward_folder(str(folder)).model, vocab_size)

    def final_figures(self, best: GPT2) -> dict[str, float]:
        """Draw the calibration; return how often a reply scores above what is made of it."""
        self.calibration.draw(self.folder / PICTURE)
        split = "validation" if len(self.rows.splits["validation"]) else "train"
        return probe(
            cast(ScalarGPT2, best),
            self.rows.splits[split],
            self.config.objective.num_probes,
            self.config.trainer.accelerator,
        )

    def summary_lines(self, figures: Mapping[str, float]) -> list[str]:
        """Return the figures of the splits, and what the probes found."""
        lines = reward_lines(figures) + probe_lines(figures)
        if self.calibration.bins:
            lines.append(f"calibration:  {self.folder / PICTURE}")
        return lines

    def use(self, folder: Path) -> list[str]:
        """Return how the result is used."""
        return [f"reward model: {folder} (transformers: AutoModelForSequenceClassification)"]


def reward_lines(figures: Mapping[str, float]) -> list[str]:
    """Return the figures of the last and best validation and of the test, beside the rule."""
    names = {
        "val": "validation, last",
        "best_val": "validation, best",
        "test": "test, by the best",
    }
    there = [prefix for prefix in names if f"{prefix}/loss" in figures]
    width = max((len(names[prefix]) for prefix in there), default=0)
    lines = [
        f"{names[prefix]:<{width}}   loss {figures[f'{prefix}/loss']:.4f}   accuracy "
        f"{figures[f'{prefix}/accuracy']:.1%} (the longer reply: "
        f"{figures[f'{prefix}/longer_accuracy']:.1%})   calibration error "
        f"{figures[f'{prefix}/calibration_error']:.3f}"
        for prefix in there
    ]
    if "best_val/length_correlation" in figures:
        lines.append(
            f"rewards have a standard deviation of {figures['best_val/reward_std']:.2f} and a "
            f"correlation with length of {figures['best_val/length_correlation']:+.2f}"
        )
    return lines
