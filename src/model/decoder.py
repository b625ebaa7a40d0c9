"""Sequences decoded side by side; they join and leave between steps.

A prompt is read in one pass (prefill), then every step reads one position of each sequence. The
sequences always fill the first rows of the cache: when one leaves, the last takes its row.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from src.adaptation import follow_load
from src.errors import UserError
from src.model.decoding_weights import DecodingWeights
from src.model.device import has_kernels
from src.model.generation_config import GenerationConfig
from src.model.gpt2 import GPT2
from src.model.kv_cache import KVCache, Span
from src.model.sampling import Asked, is_plain, next_tokens, uniforms

if HAS_KERNELS := has_kernels():  # a second to import
    from src.model.step_graph import StepGraph

READ_AT_ONCE = 4096  # tokens of prompts in one pass, which bounds its memory
MIN_REMEMBERED = 32  # tokens: reading fewer again takes hardly any time


@dataclass
class Running:
    """One sequence. All its tokens but the last are in the cache."""

    slot: int
    tokens: list[int]  # prompt and reply
    num_prompt_tokens: int
    config: GenerationConfig
    uniforms: np.ndarray = field(repr=False)  # a random number for each token of the reply

    @property
    def asked(self) -> Asked:
        """What the next token depends on, beside its scores."""
        number = len(self.tokens) - self.num_prompt_tokens
        uniform = float(self.uniforms[number]) if self.config.temperature else 0.0
        return Asked(self.config, self.tokens, self.num_prompt_tokens, uniform)


class Decoder:
    """Up to ``num_slots`` sequences side by side, each as if alone, with its own settings and seed.

    Args:
        model: all but fp32 copy the weights that it has now.
        num_slots: the most sequences at a time.
        weights: auto, fp32, fp16, bf16 or int8; or the model's weights packed before.
        num_positions: the most that a sequence may have, prompt and reply; None: as the model.
        remembers: whether a prompt is read only from where it differs from the last sequence of
            its row, for the turns of a conversation. Its scores may then differ in the last bits:
            not for a decoder that several people share.
    """

    def __init__(
        self,
        model: GPT2,
        num_slots: int,
        weights: str | DecodingWeights,
        num_positions: int | None = None,
        *,
        remembers: bool = False,
    ):
        if not isinstance(weights, DecodingWeights):
            weights = DecodingWeights(model, weights)
        self.weights = weights
        self.device = model.wte.weight.device
        most = model.config.n_positions
        self.num_positions = min(num_positions or most, most)
        with torch.inference_mode():
            self.cache = KVCache(
                model.config, num_slots, self.num_positions, self.weights.dtype, self.device
            )
        has_graph = HAS_KERNELS and self.device.type == "cuda"
        self.graph = StepGraph(self.weights, self.cache) if has_graph else None
        self.rows: list[Running] = []  # by row of the cache
        self.num_unread = 0  # the first rows, whose last token the next step reads
        self.remembers = remembers
        self.memory: list[list[int]] = [[] for _ in range(num_slots)]  # the tokens of unused rows
        self.free_slots = list(range(num_slots))[::-1]

    @property
    def num_free_slots(self) -> int:
        """How many sequences may join."""
        return len(self.free_slots)

    @torch.inference_mode()
    def join(
        self,
        prompts: Sequence[Sequence[int]],
        configs: Sequence[GenerationConfig],
        numbers: Sequence[int] | None = None,
    ) -> list[int]:
        """Read the prompts and return the slot of each.

        Args:
            prompts: token ids, of any lengths.
            configs: the settings of each.
            numbers: of the replies; what chance draws for a token depends on the seed, on this
                number and on the token's place in the reply. None: 0 for each.

        Raises:
            UserError: a prompt is empty or leaves no position for an answer.
        """
        assert len(prompts) <= len(self.free_slots), "more prompts than free slots"
        for prompt in prompts:
            check_prompt(prompt, self.num_positions)
        follow_load()
        numbers = numbers or [0] * len(prompts)
        slots: list[int] = []
        while len(slots) < len(prompts):
            first = len(slots)
            chunk = slice(first, first + _num_at_once(prompts[first:]))
            slots += self._join(prompts[chunk], configs[chunk], numbers[chunk])
        return slots

    def _join(
        self,
        prompts: Sequence[Sequence[int]],
        configs: Sequence[GenerationConfig],
        numbers: Sequence[int],
    ) -> list[int]:
        sequences, spans, ids = [], [], []
        for prompt, config, number in zip(prompts, configs, numbers, strict=True):
            row, tokens = len(self.rows), list(prompt)
            start = _num_equal(self.memory[row], tokens[:-1])
            start = start if start >= MIN_REMEMBERED else 0
            self.memory[row] = []
            spans.append(Span(row, start, len(tokens)))
            ids += tokens[start:]
            num_draws = self.num_positions - len(tokens) + 1 if config.temperature else 0
            chance = uniforms(config.seed, number, num_draws)
            sequences.append(Running(self.free_slots.pop(), tokens, len(tokens), config, chance))
            self.rows.append(sequences[-1])
        positions = torch.cat([torch.arange(span.start, span.end) for span in spans])
        hidden = self.weights.forward(
            torch.tensor(ids).to(self.device),
            positions.to(self.device),
            self.cache.read(spans),
        )
        last = torch.tensor([span.end - span.start for span in spans]).cumsum(0) - 1
        logits = self.weights.logits(hidden[last.to(self.device)])
        self._choose(logits, None, sequences)
        return [sequence.slot for sequence in sequences]

    @torch.inference_mode()
    def step(self) -> dict[int, int]:
        """Return the next token of every sequence, by slot.

        A sequence must leave once prompt and reply have taken all positions.
        """
        follow_load()
        if self.num_unread:
            sequences = self.rows[: self.num_unread]
            positions = [len(sequence.tokens) - 1 for sequence in sequences]
            assert max(positions) < self.num_positions, "a sequence without a position must leave"
            ids = [sequence.tokens[-1] for sequence in sequences]
            read = self.graph or self._read
            logits, likeliest = read(ids, positions)
            self._choose(logits, likeliest, sequences)
        self.num_unread = len(self.rows)
        return {sequence.slot: sequence.tokens[-1] for sequence in self.rows}

    def _read(self, ids: list[int], positions: list[int]) -> tuple[Tensor, None]:
        """Return scores (N, V) of the first rows."""
        at, longest = torch.tensor(positions, device=self.device), max(positions)
        attend = self.cache.step(at, longest + 1, same=min(positions) == longest)
        hidden = self.weights.forward(torch.tensor(ids, device=self.device), at, attend)
        return self.weights.logits(hidden), None

    @torch.inference_mode()
    def leave(self, slot: int) -> None:
        """Free a slot."""
        row = next(i for i, sequence in enumerate(self.rows) if sequence.slot == slot)
        if row < self.num_unread:
            self.num_unread -= 1
            self._replace(row, self.num_unread)
            row = self.num_unread
        last = len(self.rows) - 1
        self._replace(row, last)
        tokens = self.rows.pop().tokens
        if self.remembers:
            self.memory[last] = tokens[:-1]
        self.free_slots.append(slot)

    def _replace(self, row: int, by: int) -> None:
        """Copy the sequence of row ``by`` over that of ``row``; row ``by`` still holds it."""
        if row != by:
            self.cache.move(by, row, len(self.rows[by].tokens) - 1)
            self.rows[row] = self.rows[by]

    def _choose(
        self, logits: Tensor, likeliest: Tensor | None, sequences: Sequence[Running]
    ) -> None:
        """Append its next token to each sequence, by ``logits`` (N, V).

        Args:
            logits: the scores.
            likeliest: (N,) on the CPU; None: not known yet.
            sequences: one a row.
        """
        drawn = [row for row, each in enumerate(sequences) if not is_plain(each.config)]
        if len(drawn) == len(sequences):
            tokens = next_tokens(logits, [each.asked for each in sequences]).tolist()
        else:
            tokens = (logits.argmax(-1) if likeliest is None else likeliest).tolist()
            if drawn:
                index = torch.tensor(drawn, device=self.device)
                asked = [sequences[row].asked for row in drawn]
                others = next_tokens(logits[index], asked).tolist()
                for row, token in zip(drawn, others, strict=True):
                    tokens[row] = token
        for sequence, token in zip(sequences, tokens, strict=True):
            sequence.tokens.append(token)


def check_prompt(prompt: Sequence[int], num_positions: int) -> None:
    """Raise UserError if a prompt is empty or leaves no position for an answer."""
    if not prompt:
        raise UserError("the prompt is empty")
    if len(prompt) >= num_positions:
        raise UserError(
            f"the prompt has {len(prompt)} tokens and leaves no room for an answer: the model "
            f"reads at most {num_positions}; shorten it"
        )


def _num_at_once(prompts: Sequence[Sequence[int]]) -> int:
    """Return how many of ``prompts`` to read together: one, or up to ``READ_AT_ONCE`` tokens."""
    ends = itertools.accumulate(map(len, prompts))
    return max(1, sum(end <= READ_AT_ONCE for end in ends))


def _num_equal(a: Sequence[int], b: Sequence[int]) -> int:
    """Return how long the common beginning of two sequences is."""
    for index, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return index
    return min(len(a), len(b))
