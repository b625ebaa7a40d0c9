"""Step 3 of InstructGPT (Ouyang et al., arXiv:2203.02155): a policy learns from its own replies.

PPO, RLOO and GRPO differ in how they find out how much better than expected a reply was; what they
share is one base class.
"""

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import lightning as L

from src.data.blocks import Blocks
from src.data.order import Batching
from src.data.prompts import PromptReader
from src.data.source import Reader, Source
from src.data.tokenizer import Tokenizer
from src.errors import UserError
from src.model.gpt2 import GPT2
from src.model.pretrained import load_pretrained
from src.model.rollout import Sampling
from src.objectives.policy_config import PolicyConfig
from src.objectives.policy_module import PolicyModule
from src.objectives.ppo_module import (
    GroupConfig,
    GRPOModule,
    PPOConfig,
    PPOModule,
    RLOOModule,
    value_network,
)
from src.objectives.prompt_data import PromptDataModule
from src.objectives.replies import SampleReplies
from src.objectives.rewards import ModelRewards, function_rewards, reward_model
from src.objectives.sft import talk_line
from src.talk.model_folder import save_model_folder
from src.training.config import ObjectiveConfig, TrainConfig
from src.training.memory import TrainingStep
from src.training.module import TrainingModule
from src.training.objective import Best
from src.training.purpose import TALKS, Purpose

log = logging.getLogger(__name__)


class RLOO:
    """The objective of ``RLOOModule``; see ``Objective``."""

    Config: ClassVar[type[ObjectiveConfig]] = GroupConfig
    Module: ClassVar[type[PolicyModule]] = RLOOModule
    reader: ClassVar[Reader] = PromptReader
    best: ClassVar[Best] = Best("val/objective", lower_is_better=False)
    bar: ClassVar[Mapping[str, tuple[str, str]]] = {
        "score": ("ppo/score", "{:.3f}"),
        "kl": ("ppo/kl", "{:.2f}"),
        "val_score": ("val/score", "{:.3f}"),
        "tokens/s": ("perf/tokens_per_second", "{:,.0f}"),
    }
    purpose: ClassVar[Purpose] = TALKS._replace(
        does="answers questions in the way that a reward model likes",
        figures=(
            "Score is the mean reward of replies drawn at random; KL is how far they are from the "
            "reference, in nats a reply; the objective is the score less what KL costs, and loss "
            "is minus the objective."
        ),
    )
    table: ClassVar[Sequence[str]] = (
        "val/objective",
        "val/score",
        "val/kl",
        "test/objective",
        "test/score",
    )

    def __init__(self, config: TrainConfig):
        self.config = config
        self.values: PolicyConfig = config.objective
        check_policy(config)

    def step(self, step: TrainingStep) -> TrainingStep:
        """Say what is in memory: the policy, frozen networks, the keys and values of rollouts."""
        self.positions = positions(self.values, step.shape.n_positions)
        return replace(
            step,
            block_size=self.positions,
            head="logprobs",
            num_frozen=2 if self.values.reward_model else 1,
            num_cached=self.values.num_slots * self.positions,
        )

    def learner(self, model: GPT2) -> GPT2:
        """Return the model as it is; what it is now is the reference."""
        return model

    def data(
        self,
        tokenizer: Tokenizer,
        source: Source,
        *,
        block_size: int,
        max_length: int,
        batching: Batching,
    ) -> PromptDataModule:
        """Return the prompts.

        Raises:
            UserError: the replies of an iteration are not so many to each prompt.
        """
        values: Any = self.values
        drawn = batching.batch_size * values.num_minibatches
        if drawn % values.num_replies:
            raise UserError(
                f"objective.num_replies={values.num_replies}: the {drawn} replies of an iteration "
                f"(batch_size x objective.num_minibatches) must be a multiple of it"
            )
        self.prompts = PromptDataModule(
            self.config.data,
            tokenizer,
            source,
            batching=batching,
            max_steps=self.config.max_steps,
            max_epochs=self.config.max_epochs or 1,
            seed=self.config.seed,
            num_minibatches=values.num_minibatches,
            num_epochs=values.num_epochs,
            num_replies=values.num_replies,
            positions=self.positions,
            max_new_tokens=values.max_new_tokens,
        )
        return self.prompts

    def module(self, model: GPT2, num_steps: int) -> PolicyModule:
        """Return the module whose ``model`` learns.

        Raises:
            UserError: reward or reference cannot be used.
        """
        values, tokenizer = self.values, self.prompts.tokenizer
        vocab_size = model.config.vocab_size
        if values.reward_model is not None:
            rewards: Any = ModelRewards(
                reward_model(values.reward_model, tokenizer, vocab_size, self.positions)
            )
        else:
            rewards = function_rewards(values.reward or "", tokenizer)
            rewards.check(self.prompts)
        self.trained = self.Module(
            model,
            self.config.optimizer,
            objective=values,
            reference=self._reference(model),
            rewards=rewards,
            sampling=Sampling(
                self.config.seed,
                values.temperature,
                values.max_new_tokens,
                tokenizer.end_id,
                values.num_slots,
            ),
            num_steps=num_steps,
            log_every_n_steps=self.config.trainer.log_every_n_steps,
            **self.networks(model, rewards),
        )
        return self.trained

    def networks(self, model: GPT2, rewards: Any) -> dict[str, Any]:
        """Return what learns beside the policy."""
        return {}

    def _reference(self, model: GPT2) -> GPT2:
        name = self.values.reference
        if name is None:
            return copy.deepcopy(model)
        found = load_pretrained(name, key="objective.reference")
        if found.config.vocab_size != model.config.vocab_size:
            raise UserError(
                f"objective.reference={name} has {found.config.vocab_size} tokens, and the model "
                f"that learns {model.config.vocab_size}"
            )
        return found

    def describe_targets(self, blocks: Blocks) -> str:
        """Return what is drawn of the prompts."""
        deal = self.prompts.deal
        return f"{deal.num_replies:,} replies an iteration, for {deal.steps} steps"

    def watchers(self, data: Any, folder: Path) -> list[L.Callback]:
        """Return what answers the sample prompts at each validation."""
        config = self.config
        self.replies = SampleReplies(
            config.sample_prompts, data.tokenizer, config.generation, config.sample_seconds
        )
        return [self.replies]

    def before_training(self, model: GPT2) -> None:
        """Do nothing: the first validation looks at the start."""

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
        """Return nothing more."""
        return {}

    def summary_lines(self, figures: Mapping[str, float]) -> list[str]:
        """Return the figures of the splits, and why it stopped, if it did."""
        stopped = self.trained.stopped_by
        return policy_lines(figures) + ([stopped] if stopped else [])

    def use(self, folder: Path) -> list[str]:
        """Return the command that talks to it."""
        return [talk_line(folder)]


class GRPO(RLOO):
    """The objective of ``GRPOModule``; see ``Objective``."""

    Module: ClassVar[type[PolicyModule]] = GRPOModule


class PPO(RLOO):
    """The objective of ``PPOModule``; see ``Objective``."""

    Config: ClassVar[type[ObjectiveConfig]] = PPOConfig
    Module: ClassVar[type[PolicyModule]] = PPOModule

    def step(self, step: TrainingStep) -> TrainingStep:
        """Add the value network."""
        return replace(super().step(step), num_learning=2)

    def networks(self, model: GPT2, rewards: Any) -> dict[str, Any]:
        """Return the value network, which begins as the reward model."""
        return {"value": value_network(model, getattr(rewards, "model", None))}


def positions(values: PolicyConfig, n_positions: int) -> int:
    """Return how many positions a prompt and its reply have.

    Raises:
        UserError: a reply would leave no room for a prompt.
    """
    most = values.max_prompt_tokens or n_positions
    if values.max_new_tokens >= n_positions:
        raise UserError(
            f"objective.max_new_tokens={values.max_new_tokens}: the model has {n_positions} "
            f"positions, and a prompt needs some"
        )
    return min(n_positions, most + values.max_new_tokens)


def check_policy(config: TrainConfig) -> None:
    """Check what the settings say together.

    Raises:
        UserError: there is no reward or there are two; or a policy cannot learn so.
    """
    values, name = config.objective, f"objective={config.objective.name}"
    if (values.reward_model is None) == (values.reward is None):
        ways = (
            "objective.reward_model=RUN/reward_model, or objective.reward=exact_match or the "
            "dotted name of a function"
        )
        what = "one reward, not two" if values.reward else "a reward"
        again = f"resume={config.resume}: " if config.resume and not values.reward else ""
        raise UserError(f"{again}{name} needs {what}: {ways}")
    if config.trainer.strategy == "fsdp":
        raise UserError(f"trainer.strategy=fsdp: {name} draws with whole weights: use ddp")
    if config.lora.rank is not None:
        raise UserError(f"lora.rank={config.lora.rank}: {name} learns all weights: leave it null")
    if config.continue_from is not None:
        raise UserError(
            f"continue_from={config.continue_from}: {name} begins with a model: use "
            f"model.pretrained=RUN/model"
        )


def policy_lines(figures: Mapping[str, float]) -> list[str]:
    """Return score, KL and length of the last and best validation and of the test."""
    names = {"val": "validation, last", "best_val": "validation, best", "test": "test, by the best"}
    there = [prefix for prefix in names if f"{prefix}/score" in figures]
    width = max((len(names[prefix]) for prefix in there), default=0)
    return [
        f"{names[prefix]:<{width}}   score {figures[f'{prefix}/score']:.3f}   KL "
        f"{figures[f'{prefix}/kl']:.2f} nats   objective {figures[f'{prefix}/objective']:.3f}   "
        f"{figures[f'{prefix}/reply_tokens']:.1f} tokens, "
        f"{figures[f'{prefix}/reply_ended']:.0%} come to their end"
        for prefix in there
    ]
