"""PPO (Schulman et al., arXiv:1707.06347) as InstructGPT does it, and two ways without a value
network: RLOO (Ahmadian et al., arXiv:2402.14740) and GRPO (Shao et al., arXiv:2402.03300).
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from src.checks import above, at_least, within
from src.model.gpt2 import GPT2
from src.model.replies import Replies, hidden_states
from src.model.scalar import ScalarGPT2
from src.objectives.advantages import (
    gae,
    group_normalised,
    leave_one_out,
    token_rewards,
    whitened,
)
from src.objectives.experience import Experience
from src.objectives.policy_config import PolicyConfig
from src.objectives.policy_figures import TRAIN_FIGURES
from src.objectives.policy_module import PolicyModule
from src.training.gradient_norms import GradientNorms, clip_gradients
from src.training.metrics import NamedSums
from src.training.optimizer import build_optimizer


@dataclass
class PPOConfig(PolicyConfig):
    """The values of ``conf/objective/ppo.yaml``."""

    gamma: Annotated[float, within("[0, 1]")]
    lam: Annotated[float, within("[0, 1]")]
    value_clip_range: Annotated[float, above(0)]
    value_coef: Annotated[float, at_least(0)]
    value_learning_rate: Annotated[float | None, above(0).or_null("for the policy's")]
    whiten_rewards: bool
    num_replies: Annotated[int, within("[1, 1]")]


@dataclass
class GroupConfig(PolicyConfig):
    """The values of ``conf/objective/rloo.yaml`` and ``grpo.yaml``."""

    num_replies: Annotated[int, at_least(2)]


class PPOModule(PolicyModule):
    """Advantages by a value network, which learns beside the policy.

    Args:
        value: expects at each token what the reply will be worth.
    """

    train_figures: ClassVar[Sequence[str]] = (*TRAIN_FIGURES, "value_loss")

    def __init__(self, *args: Any, value: ScalarGPT2, **values: Any):
        super().__init__(*args, **values)
        self.value = value
        self.part_norms = {"policy": GradientNorms(), "value": GradientNorms()}

    def other_groups(self) -> list[dict[str, Any]]:
        """Return those of the value network, at a learning rate of its own."""
        rate = self.objective.value_learning_rate
        config = self.config if rate is None else replace(self.config, learning_rate=rate)
        return build_optimizer(self.value, config, fused=True).param_groups

    def values_of(self, batch: Mapping[str, Any]) -> Tensor:
        """Return what is expected (r,) before each token."""
        hidden = hidden_states(self.value, batch).flatten(0, 1)
        return self.value.values(hidden.index_select(0, batch["reply_index"]))

    def experience(
        self, replies: Replies, scores: Tensor, kls: Tensor, known: Mapping[str, Tensor]
    ) -> Experience:
        """Return GAE's advantages, whitened over all replies; KL is paid for at each token."""
        config = self.objective
        logprobs, reference, values = (known[n] for n in ("logprobs", "reference", "values"))
        scores = scores / self.score_scale.cpu()
        lengths, coefficient = replies.reply_lengths, float(self.kl_coef)
        rewards = token_rewards(scores, logprobs, reference, lengths, coefficient)
        if config.whiten_rewards:
            rewards = whitened(rewards, shift_mean=False)
        advantages, returns = gae(rewards, values, lengths, config.gamma, config.lam)
        return Experience(replies, logprobs, reference, whitened(advantages), values, returns)

    def sums(self, batch: Any) -> NamedSums:
        """Return the sums of one micro-batch, over its replies' tokens."""
        sums = self.policy_sums(batch)
        del sums["new"]
        values, old, returns = self.values_of(batch), batch["values"], batch["returns"]
        reach = self.objective.value_clip_range
        clipped = old + (values - old).clamp(-reach, reach)
        errors = torch.maximum((values - returns).square(), (clipped - returns).square())
        sums["value_loss"] = 0.5 * errors.sum()
        loss = sums["policy_loss"] + self.objective.value_coef * sums["value_loss"]
        return NamedSums(loss=loss, **sums)

    def clip(self) -> Tensor:
        """Clip each network's gradients by its own norm; return that of both before."""
        norms = []
        for part, network in {"policy": self.model, "value": self.value}.items():
            norms.append(clip_gradients(network, self.config.max_grad_norm))
            self.part_norms[part].add(norms[-1])
        return torch.stack(norms).norm()

    def take_training_figures(self) -> dict[str, float]:
        """Return the figures of the steps since the last call, with each network's norm."""
        found = super().take_training_figures()
        for part, norms in self.part_norms.items():
            found |= {
                f"grad_norm/{part}": value
                for name, value in norms.figures(self.config.max_grad_norm).items()
                if name == "grad_norm"
            }
        return found

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the norms, too, that are not logged yet."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["part_norms"] = {p: norms.values() for p, norms in self.part_norms.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with these norms."""
        super().on_load_checkpoint(checkpoint)
        for part, norms in checkpoint["part_norms"].items():
            self.part_norms[part].restore(norms)


class RLOOModule(PolicyModule):
    """A reply's advantage is what it is worth above the mean of the others to its prompt."""

    def experience(
        self, replies: Replies, scores: Tensor, kls: Tensor, known: Mapping[str, Tensor]
    ) -> Experience:
        """Return one advantage for all tokens of a reply, at variance 1; its worth holds KL."""
        worth = scores / self.score_scale.cpu() - float(self.kl_coef) * kls
        return self.spread(
            replies, whitened(leave_one_out(worth, self.objective.num_replies)), known
        )

    def spread(
        self, replies: Replies, advantages: Tensor, known: Mapping[str, Tensor]
    ) -> Experience:
        """Return experience in which each token of a reply has the reply's advantage (N,)."""
        each = torch.repeat_interleave(advantages, replies.reply_lengths)
        none = each.new_zeros(0)
        return Experience(replies, known["logprobs"], known["reference"], each, none, none)

    def sums(self, batch: Any) -> NamedSums:
        """Return the sums of one micro-batch, over its replies' tokens."""
        sums = self.policy_sums(batch)
        new = sums.pop("new")
        return NamedSums(loss=sums["policy_loss"] + self.kl_loss(new, batch), **sums)

    def kl_loss(self, new: Tensor, batch: Mapping[str, Any]) -> Tensor | float:
        """Return what KL adds to the loss: nothing, for it is in the rewards."""
        return 0.0


class GRPOModule(RLOOModule):
    """A reply's advantage is normalised among those to its prompt; KL is a part of the loss."""

    def experience(
        self, replies: Replies, scores: Tensor, kls: Tensor, known: Mapping[str, Tensor]
    ) -> Experience:
        """Return one advantage for all tokens of a reply."""
        return self.spread(replies, group_normalised(scores, self.objective.num_replies), known)

    def kl_loss(self, new: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """Return the sum of an estimate of KL that is never negative (equation 4 of GRPO's)."""
        log_ratio = batch["reference"] - new
        return float(self.kl_coef) * (log_ratio.exp() - 1 - log_ratio).sum()


def value_network(policy: GPT2, rewards: ScalarGPT2 | None) -> ScalarGPT2:
    """Return a network that learns: a copy of the reward model, else of the policy, expecting 0."""
    if rewards is not None:
        return copy.deepcopy(rewards).requires_grad_()
    head = torch.zeros(1, policy.config.n_embd)
    return ScalarGPT2.of(copy.deepcopy(policy), head)
