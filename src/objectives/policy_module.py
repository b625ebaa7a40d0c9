"""What PPO and its kin share: rollouts, what they are worth, KL to the reference, figures.

Shape letters: N replies of an iteration, R their tokens, n and r those of a micro-batch.
"""

import time
import warnings
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from lightning.fabric.utilities.warnings import PossibleUserWarning
from torch import Tensor

from src.errors import UserError
from src.model.gpt2 import GPT2
from src.model.logprobs import TokenScores, token_scores
from src.model.replies import Replies, hidden_states
from src.model.rollout import Sampling
from src.objectives.experience import Experience, Known, of_all_ranks
from src.objectives.policy_answers import COLUMNS, best_of, held_out_answers
from src.objectives.policy_config import runaway
from src.objectives.policy_figures import NAMES, TRAIN_FIGURES, policy_figures
from src.objectives.prompt_data import PromptDataModule
from src.objectives.rewards import Rewards, frozen_checksums
from src.training.checkpoints import at_step_boundary
from src.training.metrics import NamedSums
from src.training.module import TrainingModule
from src.training.optimizer import build_optimizer, build_schedule
from src.training.shown import boards

NUM_SHOWN = 8  # replies of a validation, as text


# Without dropout, and so in eval mode, a reply's probability is what it was when it was drawn.
warnings.filterwarnings("ignore", r"Found \d+ module\(s\) in eval mode", PossibleUserWarning)


class PolicyModule(TrainingModule):
    """A policy that learns from what its own replies are worth, near a reference.

    Args:
        objective: the values of its file in ``conf/objective``.
        reference: the policy before its first step, or another.
        rewards: what replies are worth.
        sampling: how replies are drawn.
    """

    sum_types: ClassVar = dict.fromkeys(NAMES, torch.float32)
    train_figures: ClassVar[Sequence[str]] = TRAIN_FIGURES
    learns_from_rows: ClassVar[bool] = False
    kl_coef: Tensor
    score_scale: Tensor

    def __init__(
        self,
        *args: Any,
        objective: Any,
        reference: GPT2,
        rewards: Rewards,
        sampling: Sampling,
        **values: Any,
    ):
        super().__init__(*args, **values)
        self.objective, self.rewards, self.sampling = objective, rewards, sampling
        self.frozen = [reference.requires_grad_(False).eval()]  # in a list: in no checkpoint
        self.first_ratio_error = 0.0
        self.collected: float | None = None  # when the last experience was complete
        self.stopped_by: str | None = None  # why it ended before its last step
        self.register_buffer("kl_coef", torch.tensor(objective.kl_coef))
        self.register_buffer("score_scale", torch.ones(()))

    def train(self, mode: bool = True) -> "PolicyModule":
        """Learn without dropout: a reply's probability is what it was when it was drawn."""
        super().train(mode)
        for network in self.children():
            network.eval()
        return self

    def configure_optimizers(self) -> Any:
        """Return one optimizer for all that learns, and its schedule."""
        optimizer = build_optimizer(self.model, self.config, fused=True)
        for group in self.other_groups():
            optimizer.add_param_group(group)
        for group in optimizer.param_groups:
            group["eps"] = self.objective.adam_epsilon
        schedule = build_schedule(optimizer, self.config, self.num_steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def other_groups(self) -> list[dict[str, Any]]:
        """Return the optimizer's groups of what learns beside the policy."""
        return []

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the checksums of the networks that do not learn."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["frozen_networks"] = self.frozen_checksums

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the networks that do not learn are those of the run.

        Raises:
            UserError: one is not.
        """
        super().on_load_checkpoint(checkpoint)
        for key, value in checkpoint["frozen_networks"].items():
            if self.frozen_checksums.get(key) != value:
                raise UserError(
                    f"resume: objective.{key} is not what it was: put it back, or start a new run"
                )

    @cached_property
    def frozen_checksums(self) -> dict[str, str]:
        """Those of reference and reward model."""
        return frozen_checksums(self.frozen[0], self.rewards)

    @property
    def data(self) -> PromptDataModule:
        """The prompts."""
        return self.trainer.datamodule  # type: ignore[attr-defined,no-any-return]

    @abstractmethod
    def experience(
        self, replies: Replies, scores: Tensor, kls: Tensor, known: Mapping[str, Tensor]
    ) -> Experience:
        """Return what is learned of an iteration.

        Args:
            replies: of all ranks.
            scores: (N,) of the replies.
            kls: (N,) their log-ratios to the reference.
            known: (R,) ``logprobs``, ``reference`` and ``values`` of their tokens.
        """

    def values_of(self, batch: Mapping[str, Any]) -> Tensor | None:
        """Return what is expected (r,) before each token; without a value network None."""
        return None

    def token_scores(self, model: GPT2, batch: Mapping[str, Any]) -> TokenScores:
        """Return log-probabilities and entropies of the replies' tokens under ``model``."""
        hidden = hidden_states(model, batch)
        if self.sampling.temperature != 1:
            hidden = hidden / self.sampling.temperature
        return token_scores(model, hidden, batch["reply_index"], batch["reply_labels"])

    @torch.no_grad()
    def collect(self, iteration: int) -> Experience:
        """Return the experience of an iteration, of all ranks, by the weights as they are.

        Replies take turns among the ranks. What is known of them is computed in the micro-batches
        of the first pass over them, so that its first ratios are exactly 1.
        """
        data, started = self.data, time.perf_counter()
        deal, rank, size = data.deal, self.trainer.global_rank, self.trainer.world_size
        numbers = data.of_iteration(iteration)
        first = iteration * deal.num_replies
        mine = range(rank, deal.num_replies, size)
        drawn = self.sampling.rollouts(
            self.model,
            data.prompts("train", numbers[mine].tolist()),
            [first + i for i in mine],
        )
        every = of_all_ranks(dict(zip(mine, drawn, strict=True)), size)
        rollouts = [every[i] for i in range(deal.num_replies)]
        seconds = time.perf_counter() - started
        replies = Replies.of(data.prompts("train", numbers.tolist()), rollouts, numbers.tolist())
        found: dict[int, tuple[Any, ...]] = {}
        for step in range(deal.num_minibatches):
            for of_ranks in deal.micro_batches(deal.minibatch(iteration, step)):
                rows = of_ranks[rank::size].tolist()
                found |= zip(
                    rows, zip(*self.known(replies, rows, "train"), strict=True), strict=True
                )
        found = of_all_ranks(found, size)
        columns = zip(*(found[i] for i in range(deal.num_replies)), strict=True)
        logprobs, reference, values = (torch.cat(list(next(columns))) for _ in range(3))
        scores = torch.tensor(list(next(columns)))
        owner = torch.repeat_interleave(torch.arange(len(replies)), replies.reply_lengths)
        kls = torch.zeros(len(replies)).index_add_(0, owner, logprobs - reference)
        if iteration == 0 and self.objective.scale_scores and len(scores) > 1:
            self.score_scale.fill_(float(scores.std()) or 1.0)
        known = {"logprobs": logprobs, "reference": reference, "values": values}
        experience = self.experience(replies, scores, kls, known)
        gap = logprobs - torch.tensor([x for rollout in rollouts for x in rollout.logprobs])
        self.log_figures(
            {
                **experience.figures(scores, float(self.kl_coef), float(self.score_scale)),
                "rollout/logprob_gap": float(gap.abs().mean()),
                "perf/rollout_tokens_per_second": int(replies.reply_lengths.sum()) / seconds,
                **self._shares(started, seconds),
            }
        )
        self.kl_coef *= self.objective.kl_factor(float(kls.mean()), len(replies))
        return experience

    def known(self, replies: Replies, rows: Sequence[int], split: str) -> Known:
        """Return what is known of some replies to the prompts of a split."""
        batch: Any = replies.batch(rows, self.sampling.end_id, self.data.multiple)
        batch = self.trainer.strategy.batch_to_device(batch, self.device)
        sizes = replies.reply_lengths[list(rows)].tolist()
        asked = self.data.asked(split) if self.rewards.reads_text else []
        with torch.no_grad(), self.trainer.precision_plugin.forward_context():
            logprobs = self.token_scores(self.model, batch).logprobs
            reference = self.token_scores(self.frozen[0].to(self.device), batch).logprobs
            values = self.values_of(batch)
            scores = self.rewards(replies, rows, batch, asked).float().cpu()
        scores = scores - self.objective.missing_end_penalty * ~replies.ended[list(rows)]
        empty = logprobs.new_zeros(0)
        return Known(
            list(logprobs.cpu().split(sizes)),
            list(reference.cpu().split(sizes)),
            [empty.cpu() for _ in rows] if values is None else list(values.cpu().split(sizes)),
            scores.tolist(),
        )

    def _shares(self, started: float, rollout: float) -> dict[str, float]:
        """Return which part of the time since the last iteration's end went where."""
        now = time.perf_counter()
        begun, self.collected = self.collected or started, now
        whole = now - begun
        return {
            "perf/share_rollout": rollout / whole,
            "perf/share_experience": (now - started - rollout) / whole,
        }

    def policy_sums(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the sums of the clipped loss (Schulman et al., arXiv:1707.06347, equation 7)."""
        new = self.token_scores(self.model, batch)
        log_ratio = new.logprobs - batch["logprobs"]
        ratio, advantages = log_ratio.exp(), batch["advantages"]
        low, high = 1 - self.objective.clip_range, 1 + self.objective.clip_range
        losses = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(low, high))
        if batch["is_first"]:
            error = (ratio.detach() - 1).abs().max()
            self.first_ratio_error = max(self.first_ratio_error, float(error))
        return {
            "new": new.logprobs,
            "policy_loss": losses.sum(),
            "approx_kl": 0.5 * log_ratio.detach().square().sum(),
            "clipped": ((ratio < low) | (ratio > high)).sum().float(),
            "entropy": new.entropies.sum(),
            "num_tokens": torch.full_like(new.entropies.sum(), len(ratio)),
        }

    def figures(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Return those of ``policy_figures``; KL has the price that it had at first."""
        return policy_figures(sums, self.objective.kl_coef * float(self.score_scale))

    def take_training_figures(self) -> dict[str, float]:
        """Return the figures of the steps since the last call, under PPO's names."""
        own = {f"train/{name}": f"ppo/{name}" for name in self.train_figures if name != "loss"}
        found = {own.get(k, k): v for k, v in super().take_training_figures().items()}
        found["ppo/first_ratio_error"], self.first_ratio_error = self.first_ratio_error, 0.0
        return found

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Answer the prompts of these numbers, and add up what the replies are worth."""
        self._answer("validation", batch["prompt_numbers"].tolist(), self.val_metrics)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Answer the prompts of these numbers, and add up what the replies are worth."""
        self._answer("test", batch["prompt_numbers"].tolist(), self.test_metrics)

    def _answer(self, split: str, numbers: list[int], metrics: Any) -> None:
        answers = held_out_answers(self, split, numbers) if numbers else []
        for answer in answers:
            sums = {name: torch.tensor(value) for name, value in answer.sums.items()}
            metrics.update(NamedSums({name: x.to(self.device) for name, x in sums.items()}))
        for board in boards(self.trainer) if split == "validation" else ():
            rows = [answer.row for answer in answers[:NUM_SHOWN]]
            board.log_table("replies", COLUMNS, rows, step=self.trainer.global_step)

    def on_train_start(self) -> None:
        """Take no further step in a run that ran away before it was interrupted."""
        self._stop_if_it_runs_away()

    def on_train_batch_end(self, *_: Any) -> None:
        """End a run that runs away, between two steps."""
        if at_step_boundary(self.trainer):
            self._stop_if_it_runs_away()

    def _stop_if_it_runs_away(self) -> None:
        loader = self.data.loader
        if self.stopped_by is None and loader is not None and loader.experience is not None:
            self.stopped_by = runaway(loader.experience, self.objective)
        if self.stopped_by is not None:
            self.trainer.should_stop = True

    def on_validation_epoch_end(self) -> None:
        """Log the figures, and before the first step what best of n would reach."""
        super().on_validation_epoch_end()
        if self.trainer.state.fn == "validate" and not self.trainer.global_step:
            self.log_figures(best_of(self))
