"""How far a policy has moved from its reference, measured on replies that it draws itself."""

import logging
from collections.abc import Callable, Sequence

import lightning as L
import torch
from torch import Tensor

from src import phases
from src.model.gpt2 import GPT2
from src.model.logprobs import token_logprobs
from src.model.rollout import Sampling
from src.model.weights_file import checksum
from src.objectives.experience import Replies
from src.training.module import TrainingModule

log = logging.getLogger(__name__)


class Divergence(L.Callback):
    """Logs ``val/kl`` at each validation, in nats a reply, as PPO does (``src.objectives.ppo``).

    It is the mean of log p - log p_reference of replies drawn from p at temperature 1, by the same
    chance each time, to the same prompts. It chooses no weights. The reference is read for it each
    time, so that nothing holds it while a policy learns.

    Args:
        prompts: token ids, each with room for a reply.
        sampling: how replies are drawn.
        load: returns the reference.
        expected: the checksum of its weights.
    """

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        load: Callable[[], GPT2],
        expected: str,
    ):
        self.prompts, self.sampling = prompts, sampling
        self.load, self.expected = load, expected
        self.has_warned = False

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Draw, and log."""
        assert isinstance(module, TrainingModule)
        if not self.prompts:
            return
        model = module.plain_model()
        if not trainer.is_global_zero:
            return
        with phases.phase("replies"):
            kl = self.measure(model)
        if kl is not None:
            module.log_figures({"val/kl": kl})

    @torch.no_grad()
    def measure(self, model: GPT2) -> float | None:
        """Return the mean KL of ``model`` to the reference; None if that is no longer there."""
        reference = self.load()
        if weights_checksum(reference) != self.expected:
            if not self.has_warned:
                self.has_warned = True
                log.warning("warning: no val/kl: the folder of the reference has changed meanwhile")
            return None
        device = model.wte.weight.device
        training = model.training
        model.eval()
        reference.to(device).eval()
        numbers = range(len(self.prompts))
        rollouts = self.sampling.rollouts(model, self.prompts, numbers)
        replies = Replies.of(self.prompts, rollouts, numbers)
        sums = [
            float((_logprobs(model, batch) - _logprobs(reference, batch)).sum())
            for batch in (replies.batch([n], self.sampling.end_id) for n in numbers)
        ]
        model.train(training)
        return sum(sums) / len(sums)


def weights_checksum(model: GPT2) -> str:
    """Return the checksum of the weights of a model on any device."""
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    return checksum(state)


def _logprobs(model: GPT2, batch: dict) -> Tensor:
    """Return the log-probability (r,) of each token of the replies of a batch."""
    device = model.wte.weight.device
    on = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}
    hidden = model(on["input_ids"], on["position_ids"], on["cu_seqlens"], on["max_seqlen"])
    return token_logprobs(model, hidden, on["reply_index"], on["reply_labels"])
