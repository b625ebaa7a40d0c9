"""Replies with their prompts, and what a model says of each: its probability, or a reward.

Replies stand flat: prompt and reply of one behind those of the other, without padding.

Shape letters: N replies, S their tokens with those of the prompts, R without; n, r the same of a
micro-batch, T its positions, D width.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from src.model.gpt2 import GPT2
from src.model.logprobs import token_logprobs
from src.model.rollout import Rollout
from src.model.scalar import ScalarGPT2

TOKENS_AT_ONCE = 8192  # of prompts and replies in one forward pass


@dataclass(frozen=True)
class Replies:
    """Replies to prompts, such as those of an iteration; all on the CPU."""

    tokens: Tensor  # (S,) int64
    prompt_lengths: Tensor  # (N,) int64
    reply_lengths: Tensor  # (N,) int64, the end token included
    ended: Tensor  # (N,) bool
    prompt_numbers: Tensor  # (N,) int64 of the prompts in their split

    @classmethod
    def of(
        cls,
        prompts: Sequence[Sequence[int]],
        rollouts: Sequence[Rollout],
        numbers: Sequence[int],
    ) -> "Replies":
        """Return the replies to ``prompts``, of these ``numbers`` in their split."""
        whole = [[*p, *r.tokens] for p, r in zip(prompts, rollouts, strict=True)]
        return cls(
            tokens=torch.tensor([token for ids in whole for token in ids]),
            prompt_lengths=torch.tensor([len(prompt) for prompt in prompts]),
            reply_lengths=torch.tensor([len(rollout.tokens) for rollout in rollouts]),
            ended=torch.tensor([rollout.ended for rollout in rollouts]),
            prompt_numbers=torch.tensor(list(numbers)),
        )

    def __len__(self) -> int:
        return len(self.ended)

    @property
    def starts(self) -> Tensor:
        """Where the prompt of each reply (N,) begins."""
        lengths = self.prompt_lengths + self.reply_lengths
        return lengths.cumsum(0) - lengths

    def reply(self, row: int) -> list[int]:
        """Return the token ids of one reply."""
        start = int(self.starts[row] + self.prompt_lengths[row])
        return self.tokens[start : start + int(self.reply_lengths[row])].tolist()

    def batch(self, rows: Sequence[int], end_id: int, multiple: int = 1) -> dict[str, Any]:
        """Return some replies as a packed batch of one block (1, T), each a document of its own.

        Beside what every batch holds: ``reply_index`` (r,) the position before each token of a
        reply, ``reply_labels`` (r,) the token, ``last_index`` (n,) the last of each reply.

        Args:
            rows: which.
            end_id: the token of padding.
            multiple: T is one of it, by a document of padding.
        """
        starts = self.starts.tolist()
        prompts, replies = self.prompt_lengths.tolist(), self.reply_lengths.tolist()
        ids, positions, index, last, bounds = [], [], [], [], [0]
        for row in rows:
            length, before = prompts[row] + replies[row], bounds[-1]
            ids.append(self.tokens[starts[row] : starts[row] + length])
            positions.append(torch.arange(length))
            first = before + prompts[row]
            index.append(torch.arange(first - 1, first - 1 + replies[row]))
            last.append(before + length - 1)
            bounds.append(before + length)
        longest, num_tokens = int(np.diff(bounds).max()), bounds[-1]
        for _ in range(0, -num_tokens % multiple, longest):  # no longer than what has positions
            length = min(longest, -bounds[-1] % multiple)
            ids.append(torch.full((length,), end_id))
            positions.append(torch.arange(length))
            bounds.append(bounds[-1] + length)
        input_ids, reply_index = torch.cat(ids), torch.cat(index)
        return {
            "input_ids": input_ids[None],
            "position_ids": torch.cat(positions)[None],
            "cu_seqlens": torch.tensor(bounds, dtype=torch.int32),
            "max_seqlen": longest,
            "reply_index": reply_index,
            "reply_labels": input_ids[reply_index + 1],
            "last_index": torch.tensor(last),
        }


def hidden_states(model: GPT2, batch: Mapping[str, Any]) -> Tensor:
    """Return the hidden states (1, T, D) of a micro-batch."""
    hidden: Tensor = model(
        batch["input_ids"], batch["position_ids"], batch["cu_seqlens"], batch["max_seqlen"]
    )
    return hidden


@torch.no_grad()
def reply_logprobs(model: GPT2, replies: Replies, end_id: int) -> Tensor:
    """Return the log-probability (N,) of each reply in nats, fp32, by a forward pass of training.

    Args:
        model: in eval mode; it is computed where the model is.
        replies: all of them.
        end_id: the token of padding.
    """
    found = []
    for rows, batch in _micro_batches(model, replies, end_id):
        hidden = hidden_states(model, batch)
        tokens = token_logprobs(model, hidden, batch["reply_index"], batch["reply_labels"])
        sizes = replies.reply_lengths[list(rows)].tolist()
        found += [part.sum() for part in tokens.split(sizes)]
    return torch.stack(found).cpu()


@torch.no_grad()
def reply_rewards(model: ScalarGPT2, replies: Replies, end_id: int) -> Tensor:
    """Return the reward (N,) of each reply at its last token, fp32."""
    found = [
        model.rewards(hidden_states(model, batch), batch["last_index"])
        for _, batch in _micro_batches(model, replies, end_id)
    ]
    return torch.cat(found).float().cpu()


def _micro_batches(
    model: GPT2, replies: Replies, end_id: int
) -> Iterator[tuple[range, dict[str, Any]]]:
    """Yield replies, in their order, with their batch on the device of ``model``."""
    ends = (replies.prompt_lengths + replies.reply_lengths).cumsum(0).tolist()
    device, first, before = model.wte.weight.device, 0, 0
    for row in range(len(ends)):
        if row + 1 == len(ends) or ends[row + 1] - before > TOKENS_AT_ONCE:
            rows = range(first, row + 1)
            batch = replies.batch(rows, end_id)
            yield (
                rows,
                {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()},
            )
            first, before = row + 1, ends[row]
