"""How far a policy has moved from its reference, measured on replies that it draws itself."""

from collections.abc import Callable, Sequence

import torch

from src.model.gpt2 import GPT2
from src.model.replies import Replies, reply_logprobs
from src.model.rollout import Sampling
from src.objectives.reply_figures import PromptFigures


class Divergence(PromptFigures):
    """Logs ``val/kl`` at each validation, in nats a reply, as PPO does (``src.objectives.ppo``).

    It is the mean of log p - log p_reference of replies drawn from p at temperature 1, by the same
    chance each time, to the same prompts. It chooses no weights. The reference is read for it each
    time, so that nothing holds it while a policy learns.

    Args:
        prompts: token ids, each with room for a reply.
        sampling: how replies are drawn.
        load: returns the reference; None: it is no longer there.
    """

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        load: Callable[[], GPT2 | None],
    ):
        self.prompts, self.sampling, self.load = prompts, sampling, load

    def figures(self, model: GPT2) -> dict[str, float]:
        """Return KL, if the reference is still there."""
        kl = self.measure(model)
        return {} if kl is None else {"val/kl": kl}

    @torch.no_grad()
    def measure(self, model: GPT2) -> float | None:
        """Return the mean KL of ``model`` to the reference; None if that is no longer there."""
        reference = self.load()
        if reference is None:
            return None
        training, end_id = model.training, self.sampling.end_id
        model.eval()
        reference.to(model.wte.weight.device).eval()
        numbers = range(len(self.prompts))
        rollouts = self.sampling.rollouts(model, self.prompts, numbers)
        replies = Replies.of(self.prompts, rollouts, numbers)
        by_policy, by_reference = (
            reply_logprobs(each, replies, end_id) for each in (model, reference)
        )
        model.train(training)
        return float((by_policy - by_reference).mean())
