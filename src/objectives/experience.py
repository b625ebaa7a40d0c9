"""What is known of the tokens of replies that a policy has drawn, and the loader that serves them.

Shape letters: N replies of an iteration, R their tokens without those of the prompts.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from src.data.order import Batching
from src.model.replies import Replies

GPU_MULTIPLE = 256  # positions of a micro-batch on a GPU: few shapes


class Known(NamedTuple):
    """What is known of the tokens of some replies, by one forward pass; on the CPU."""

    logprobs: list[Tensor]  # by reply
    reference: list[Tensor]
    values: list[Tensor]
    scores: list[float]


@dataclass(frozen=True)
class Experience:
    """What a policy learns from in one iteration; all on the CPU, and saved in checkpoints.

    Attributes:
        replies: all of the iteration, of all ranks.
        logprobs: (R,) nats of the tokens, by the policy that drew them.
        reference: (R,) the same by the reference.
        advantages: (R,).
        values: (R,) that were expected before each token; without a value network none.
        returns: (R,) what they should have been.
    """

    replies: Replies
    logprobs: Tensor
    reference: Tensor
    advantages: Tensor
    values: Tensor
    returns: Tensor

    def batch(self, rows: Sequence[int], end_id: int, multiple: int) -> dict[str, Any]:
        """Return some replies as ``Replies.batch`` does, with what is known of their tokens."""
        ends = self.replies.reply_lengths.cumsum(0).tolist()
        starts = [0, *ends[:-1]]
        tokens = torch.cat([torch.arange(starts[row], ends[row]) for row in rows])
        known = {
            name: getattr(self, name)[tokens]
            for name in ("logprobs", "reference", "advantages", "values", "returns")
            if len(getattr(self, name))
        }
        return {**self.replies.batch(rows, end_id, multiple), **known}

    @property
    def mean_kl(self) -> float:
        """The mean over the replies of their log-ratios to the reference, in nats."""
        return float((self.logprobs - self.reference).sum() / len(self.replies))

    @property
    def unended(self) -> float:
        """The share of the replies that did not come to their end."""
        return 1 - float(self.replies.ended.float().mean())

    def figures(self, scores: Tensor, kl_coef: float, scale: float) -> dict[str, float]:
        """Return the figures of an iteration.

        Args:
            scores: (N,) of the replies.
            kl_coef: what a nat costs.
            scale: by which scores are divided in what the policy learns from.
        """
        score, kl = float(scores.mean()), self.mean_kl
        figures = {
            "ppo/score": score,
            "ppo/kl": kl,
            "ppo/kl_coef": kl_coef,
            "ppo/objective": score - kl_coef * scale * kl,
            "ppo/reply_length": float(self.replies.reply_lengths.float().mean()),
            "ppo/ended": 1 - self.unended,
        }
        if len(self.values):
            errors = (self.returns - self.values).var()
            figures["ppo/explained_variance"] = 1 - float(errors / self.returns.var())
        return figures

    def state(self) -> dict[str, Any]:
        """Return it in plain types."""
        return {**vars(self), "replies": dict(vars(self.replies))}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Experience":
        """Return what ``state`` has returned."""
        return cls(**{**state, "replies": Replies(**state["replies"])})


@dataclass(frozen=True)
class Deal:
    """Which replies make which micro-batch: a pure function of the seed.

    An iteration draws ``num_minibatches`` times ``batch_size`` replies and goes over them
    ``num_epochs`` times; each minibatch is one optimizer step.
    """

    batching: Batching
    num_minibatches: int
    num_epochs: int
    seed: int

    @property
    def num_replies(self) -> int:
        """Replies of an iteration, over all ranks."""
        return self.num_minibatches * self.batching.batch_size

    @property
    def steps(self) -> int:
        """Optimizer steps of an iteration."""
        return self.num_minibatches * self.num_epochs

    def minibatch(self, iteration: int, step: int) -> np.ndarray:
        """Return the replies (batch_size,) of a step of an iteration."""
        epoch, number = divmod(step, self.num_minibatches)
        order = np.random.default_rng([self.seed, iteration, epoch]).permutation(self.num_replies)
        return order.reshape(self.num_minibatches, -1)[number]

    def micro_batches(self, minibatch: np.ndarray) -> list[np.ndarray]:
        """Return the replies of each micro-batch, of all ranks: they take turns."""
        return np.split(minibatch, self.batching.num_micro_batches)


class ExperienceLoader:
    """Micro-batches of a whole run; an iteration's experience is made when it is asked for.

    Sized, so that Lightning fetches nothing ahead; its state is a position and the experience in
    hand, so that a run goes on inside an iteration.

    Args:
        deal: which replies make which micro-batch.
        num_steps: optimizer steps of the run.
        collect: returns the experience of an iteration.
        rank: of this process.
        end_id: the token of padding.
        multiple: of which the positions of a micro-batch are.
    """

    def __init__(
        self,
        deal: Deal,
        num_steps: int,
        collect: Callable[[int], Experience],
        rank: int,
        end_id: int,
        multiple: int,
    ):
        self.deal, self.num_steps, self.collect = deal, num_steps, collect
        self.rank, self.end_id, self.multiple = rank, end_id, multiple
        self.position = 0
        self.experience: Experience | None = None

    def __len__(self) -> int:
        return self.num_steps * self.deal.batching.num_micro_batches

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while self.position < len(self):
            step, micro = divmod(self.position, self.deal.batching.num_micro_batches)
            iteration, step_of_it = divmod(step, self.deal.steps)
            if self.experience is None or (step_of_it, micro) == (0, 0):
                self.experience = self.collect(iteration)
            minibatch = self.deal.minibatch(iteration, step_of_it)
            of_ranks = self.deal.micro_batches(minibatch)[micro]
            mine = of_ranks[self.rank :: self.deal.batching.num_devices]
            replies = self.experience.replies
            lengths = replies.prompt_lengths + replies.reply_lengths
            self.position += 1
            yield {
                **self.experience.batch(mine.tolist(), self.end_id, self.multiple),
                "denominator": float(replies.reply_lengths[minibatch].sum()),
                "num_tokens": int(lengths[of_ranks].sum()),
                "is_first": step_of_it == 0,
            }

    def state_dict(self) -> dict[str, Any]:
        """Return the number of micro-batches so far, and what they are made of."""
        experience = None if self.experience is None else self.experience.state()
        return {"position": self.position, "experience": experience}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after that number of micro-batches."""
        self.position = state["position"]
        found = state["experience"]
        self.experience = None if found is None else Experience.from_state(found)


def of_all_ranks(found: dict[int, Any], num_ranks: int) -> dict[int, Any]:
    """Return what all ranks have found, by the number of the reply; every rank has to call it."""
    if num_ranks == 1:
        return found
    ranks: list[Any] = [None] * num_ranks
    torch.distributed.all_gather_object(ranks, found)
    return {number: each for rank in ranks for number, each in rank.items()}
