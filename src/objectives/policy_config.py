"""The settings that PPO and its kin share, and when a run has gone astray."""

from dataclasses import dataclass
from typing import Annotated

from src.checks import above, at_least, check, within
from src.objectives.experience import Experience
from src.training.config import ObjectiveConfig


@dataclass
class PolicyConfig(ObjectiveConfig):
    """What the configs of PPO and its kin share."""

    reward_model: str | None
    reward: str | None
    reference: str | None
    max_prompt_tokens: Annotated[int | None, at_least(1).or_null("for what the model has room for")]
    max_new_tokens: Annotated[int, at_least(1)]
    temperature: Annotated[float, above(0)]
    num_slots: Annotated[int, at_least(1)]
    num_minibatches: Annotated[int, at_least(1)]
    num_epochs: Annotated[int, at_least(1)]
    kl_coef: Annotated[float, at_least(0)]
    target_kl: Annotated[float | None, above(0).or_null("for a fixed kl_coef")]
    kl_horizon: Annotated[float, above(0)]
    clip_range: Annotated[float, above(0)]
    missing_end_penalty: Annotated[float, at_least(0)]
    scale_scores: bool
    adam_epsilon: Annotated[float, above(0)]
    most_kl: Annotated[float | None, above(0).or_null("for no limit")]
    most_unended: Annotated[float | None, within("(0, 1]").or_null("for no limit")]
    best_of: Annotated[int, at_least(0)]
    best_of_prompts: Annotated[int, at_least(1)]

    def __post_init__(self) -> None:
        """Check ranges; raise UserError naming the key."""
        check(self, "objective.")

    def kl_factor(self, kl: float, num_replies: int) -> float:
        """Return by what ``kl_coef`` changes after an iteration (arXiv:1909.08593, 2.2)."""
        if self.target_kl is None:
            return 1.0
        error = min(max(kl / self.target_kl - 1, -0.2), 0.2)
        return 1 + error * num_replies / self.kl_horizon


def runaway(experience: Experience, config: PolicyConfig) -> str | None:
    """Return why a run should end: its policy is too far from the reference, or does not end."""
    if config.most_kl is not None and experience.mean_kl > config.most_kl:
        return (
            f"it stopped: the policy is {experience.mean_kl:.1f} nats from the reference, more "
            f"than objective.most_kl={config.most_kl:g}: raise objective.kl_coef, or lower "
            f"optimizer.learning_rate"
        )
    if config.most_unended is not None and experience.unended > config.most_unended:
        return (
            f"it stopped: {experience.unended:.0%} of the replies do not come to an end, more than "
            f"objective.most_unended={config.most_unended:g}: raise objective.missing_end_penalty "
            f"or objective.max_new_tokens"
        )
    return None
