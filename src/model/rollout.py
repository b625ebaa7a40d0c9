"""Replies that a policy draws of itself, many at a time, to learn from.

The weights are those that learn, not a copy. A reply is drawn from the full softmax: no cut and no
penalty changes its probabilities. What chance draws for a token depends on the seed, the number of
the reply and the token's place in it, so the same replies come whoever else is drawn beside them.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from src.model.decoder import Decoder, Running
from src.model.generation_config import GenerationConfig
from src.model.gpt2 import GPT2


class Rollout(NamedTuple):
    """One reply.

    Attributes:
        tokens: the end token is the last, if it came to its end.
        logprobs: nats of each token, as the decoder computes them.
        ended: by the end token, not by the limit.
    """

    tokens: list[int]
    logprobs: list[float]
    ended: bool


class ScoringDecoder(Decoder):
    """A decoder that keeps the log-probability of each token that it chooses."""

    def __init__(self, *args: Any, temperature: float, **values: Any):
        super().__init__(*args, **values)
        self.temperature = temperature
        self.logprobs: dict[int, list[float]] = defaultdict(list)  # by slot

    def _choose(
        self, logits: Tensor, likeliest: Tensor | None, sequences: Sequence[Running]
    ) -> None:
        super()._choose(logits, likeliest, sequences)
        tokens = torch.tensor([each.tokens[-1] for each in sequences], device=logits.device)
        scores = logits if self.temperature in (0, 1) else logits / self.temperature
        of_tokens = scores.gather(1, tokens[:, None]).squeeze(1)
        found = (of_tokens - scores.logsumexp(-1)).tolist()
        for sequence, value in zip(sequences, found, strict=True):
            self.logprobs[sequence.slot].append(value)


@dataclass(frozen=True)
class Sampling:
    """How replies are drawn.

    Attributes:
        seed: of chance.
        temperature: divides the scores; 0: always the likeliest token, whose log-probability is
            that at temperature 1.
        max_new_tokens: of a reply, its end token included.
        end_id: the token that ends a reply.
        num_slots: replies that are drawn side by side.
    """

    seed: int
    temperature: float
    max_new_tokens: int
    end_id: int
    num_slots: int

    @property
    def generation(self) -> GenerationConfig:
        """The same as the decoder knows it."""
        return GenerationConfig(
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_k=None,
            top_p=None,
            min_p=None,
            repetition_penalty=1.0,
            frequency_penalty=0.0,
            presence_penalty=0.0,
            stop=[],
            seed=self.seed,
            weights="fp32",
        )

    def rollouts(
        self, model: GPT2, prompts: Sequence[Sequence[int]], numbers: Sequence[int]
    ) -> list[Rollout]:
        """Return a reply to each prompt.

        Args:
            model: a plain one, with the weights as they are now.
            prompts: token ids, each with room for ``max_new_tokens`` more.
            numbers: of the replies, for chance.
        """
        longest = max(map(len, prompts))
        decoder = ScoringDecoder(
            model,
            min(self.num_slots, len(prompts)),
            "fp32",
            longest + self.max_new_tokens,
            temperature=self.temperature,
        )
        found: dict[int, Rollout] = {}
        running: dict[int, int] = {}  # slot -> place among the prompts
        waiting = list(range(len(prompts)))[::-1]
        while waiting or running:
            joining = [waiting.pop() for _ in range(min(decoder.num_free_slots, len(waiting)))]
            if joining:
                slots = decoder.join(
                    [prompts[place] for place in joining],
                    [self.generation] * len(joining),
                    [numbers[place] for place in joining],
                )
                running |= dict(zip(slots, joining, strict=True))
            decoder.step()
            for place, rollout in self._leaving(decoder, running):
                found[place] = rollout
        return [found[place] for place in range(len(prompts))]

    def _leaving(
        self, decoder: ScoringDecoder, running: dict[int, int]
    ) -> list[tuple[int, Rollout]]:
        """Take out what is complete; return it, by its place."""
        complete = []
        for sequence in list(decoder.rows):
            reply = sequence.tokens[sequence.num_prompt_tokens :]
            ended = reply[-1] == self.end_id
            if ended or len(reply) == self.max_new_tokens:
                slot = sequence.slot
                rollout = Rollout(reply, decoder.logprobs.pop(slot), ended)
                decoder.leave(slot)
                complete.append((running.pop(slot), rollout))
        return complete
