"""The loss of direct preference optimisation, and the module that learns from it.

Shape letters: N replies, P pairs.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from src.checks import above, at_least, check, one_of, within
from src.errors import UserError
from src.objectives.pairs import bradley_terry, differences, squared
from src.objectives.preference_sums import NAMES, preference_figures, preference_sums
from src.objectives.reference import per_reply, reply_logprobs
from src.training.config import ObjectiveConfig
from src.training.metrics import NamedSums
from src.training.module import TrainingModule

LOSSES = ("sigmoid", "sigmoid_norm", "ipo")

log = logging.getLogger(__name__)


@dataclass
class DPOConfig(ObjectiveConfig):
    """The values of ``conf/objective/dpo.yaml``."""

    loss: Annotated[str, one_of(LOSSES)]
    beta: Annotated[float, above(0)]
    label_smoothing: Annotated[float, within("[0, 0.5)")]
    sft_weight: Annotated[float, at_least(0)]
    reference: str | None
    most_sinking: Annotated[float, above(0)]
    num_replies: Annotated[int, at_least(0)]

    def __post_init__(self) -> None:
        """Check ranges; raise UserError naming the key."""
        check(self, "objective.")


class DPOModule(TrainingModule):
    """GPT-2 that learns from pairs beside a reference; each prompt counts once.

    Args:
        objective: its settings.
        reference: the checksum of the reference's weights.
    """

    sum_types: ClassVar = dict.fromkeys((*NAMES, "chosen", "rejected"), torch.float32)
    train_figures: ClassVar[Sequence[str]] = (
        "loss",
        "accuracy",
        "margin",
        "chosen_logratio",
        "rejected_logratio",
    )

    def __init__(self, *args: Any, objective: DPOConfig, reference: str, **values: Any):
        super().__init__(*args, **values)
        self.objective = objective
        self.reference = reference
        self.has_warned = False

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the checksum of the reference."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["reference"] = self.reference

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the reference is that of the run.

        Raises:
            UserError: it is not.
        """
        super().on_load_checkpoint(checkpoint)
        if checkpoint.get("reference", self.reference) != self.reference:
            raise UserError(
                "the reference is not what it was (objective.reference, or the model that the run "
                "began with): put it back, or start a new run"
            )

    def sums(self, batch: Any) -> NamedSums:
        """Return the sums of one micro-batch: of the loss, of pairs and of replies."""
        config = self.objective
        logprobs = reply_logprobs(self.model, batch)
        lengths = per_reply(torch.ones_like(batch["owner"], dtype=logprobs.dtype), batch)
        ratios = logprobs - batch["reference_logprobs"]
        pairs, weight = batch["pairs"], batch["pair_weight"]
        losses, rewards = dpo_losses(ratios, lengths, pairs, config)
        if config.sft_weight:
            per_token = logprobs / lengths.clamp(min=1)
            losses = losses - config.sft_weight * per_token.index_select(0, pairs[:, 0])
        rewards, ratios = rewards.detach(), ratios.detach()
        of_all = preference_sums(
            rewards,
            lengths,
            margins=differences(rewards, pairs),
            longer_by=differences(lengths, pairs),
            gaps=-differences(batch["ranks"], pairs),
            weight=weight,
        )
        chosen, rejected = (ratios.index_select(0, number) for number in pairs.unbind(1))
        return NamedSums(
            loss=(weight * losses).sum(),
            chosen=(weight * chosen).sum(),
            rejected=(weight * rejected).sum(),
            **of_all,
        )

    def figures(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Return those of ``preference_figures``, of implicit rewards, and mean log-ratios.

        ``chosen_logratio`` and ``rejected_logratio``, in nats: how much likelier the better and the
        worse reply of a pair have become.
        """
        count = max(sums["num_prompts"], 1e-12)
        return preference_figures(sums) | {
            "chosen_logratio": sums["chosen"] / count,
            "rejected_logratio": sums["rejected"] / count,
        }

    def on_validation_epoch_end(self) -> None:
        """Log the figures; warn once if the replies that people chose become unlikely."""
        super().on_validation_epoch_end()
        ratio, most = self.latest["val/chosen_logratio"], self.objective.most_sinking
        if ratio < -most and not self.has_warned:
            self.has_warned = True
            log.warning(
                "warning: the replies that people chose are %.1f nats less likely than under the "
                "reference (objective.most_sinking=%g): the policy moves to replies that nobody "
                "has judged; raise objective.beta or objective.sft_weight, or lower "
                "optimizer.learning_rate",
                -ratio,
                most,
            )


def dpo_losses(
    ratios: Tensor, lengths: Tensor, pairs: Tensor, config: DPOConfig
) -> tuple[Tensor, Tensor]:
    """Return the loss (P,) of each pair, and the implicit reward (N,) of each reply.

    Args:
        ratios: (N,) log-probability of each reply less the reference's, in nats.
        lengths: (N,) tokens of each reply.
        pairs: (P, 2) int64 numbers of replies, the better one first.
        config: which loss; all but ``sigmoid`` take the mean over a reply's tokens, not the sum
            (``sigmoid_norm``: Meng et al., arXiv:2405.14734, 2.2, with a reference).
    """
    if config.loss != "sigmoid":
        ratios = ratios / lengths.clamp(min=1)
    if config.loss == "ipo":
        losses = squared(differences(ratios, pairs), config.beta, config.label_smoothing)
    else:
        margins = config.beta * differences(ratios, pairs)
        losses = bradley_terry(margins, config.label_smoothing)
    return losses, config.beta * ratios
