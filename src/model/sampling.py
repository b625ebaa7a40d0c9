"""From scores to next tokens: the likeliest, or random ones, of all rows at once.

The order and the meaning of the settings are Hugging Face's: repetition penalty, temperature,
top-k, top-p, min-p. OpenAI's frequency and presence penalty follow the repetition penalty, as in
vLLM. A row's token depends on its own scores, settings and uniform number alone.

Shape letters: N rows, V vocabulary, C candidates.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from src.errors import UserError
from src.model.generation_config import GenerationConfig

NUM_LIKELIEST = 512  # candidates of top-p, which seldom needs more; else all tokens are sorted
WORD = 2**64


@dataclass(frozen=True)
class Asked:
    """What the next token of a row depends on, beside its scores.

    Attributes:
        config: the settings.
        tokens: prompt and reply so far.
        num_prompt_tokens: how many of ``tokens`` are the prompt.
        uniform: a random number in [0, 1).
    """

    config: GenerationConfig
    tokens: Sequence[int]
    num_prompt_tokens: int
    uniform: float


def is_plain(config: GenerationConfig) -> bool:
    """Whether the next token is simply that of the highest score."""
    return config.temperature == 0 and not _has_penalty(config)


def uniforms(seed: int, number: int, length: int) -> np.ndarray:
    """Return random numbers (length,) in [0, 1), float64, for the positions of a reply.

    Each is a pure function of seed, number of the reply and position: a counter is scrambled
    (Philox; Salmon et al., 2011, "Parallel random numbers: as easy as 1, 2, 3").
    """
    key = np.array([seed % WORD, number % WORD], dtype=np.uint64)
    bits = np.random.Philox(key=key).random_raw(length)
    return (bits >> np.uint64(12)) * 2.0**-52


def next_tokens(logits: Tensor, asked: Sequence[Asked]) -> Tensor:
    """Return the next token (N,) of each row of ``logits`` (N, V), which do not change.

    A row of temperature 0 gets its likeliest. Another gets a random token, of the probabilities
    softmax(logits / temperature) after three cuts: to the ``top_k`` likeliest tokens; to the fewest
    whose probabilities reach ``top_p`` (nucleus sampling, arXiv:1904.09751); to those with at least
    ``min_p`` times the probability of the likeliest (arXiv:2407.01082).

    ``repetition_penalty`` makes the tokens of prompt and reply less likely (arXiv:1909.05858): a
    positive score is divided by it, a negative one multiplied. The tokens of the reply are less
    likely by ``frequency_penalty`` times their number, and by ``presence_penalty`` once
    (https://platform.openai.com/docs/api-reference/chat/create).

    Raises:
        UserError: on a CPU, a token is drawn from scores that are not finite.
    """
    groups: dict[tuple[bool, int | None, float | None, float | None], list[int]] = defaultdict(list)
    for row, each in enumerate(asked):
        config = each.config
        cuts = (config.top_k, config.top_p, config.min_p) if config.temperature else (None,) * 3
        groups[config.temperature > 0, *cuts].append(row)
    if any(_has_penalty(each.config) for each in asked):
        logits = _penalized(logits, asked)
    if len(groups) == 1:
        return _choose(logits, asked)
    tokens = torch.empty(len(asked), dtype=torch.long, device=logits.device)
    for rows in groups.values():
        index = torch.tensor(rows, device=logits.device)
        tokens[index] = _choose(logits[index], [asked[row] for row in rows])
    return tokens


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """Return a random token (N,) of each row by softmax of ``logits`` (N, V).

    The first token at which the sum of the probabilities exceeds the row's number (N,), float64, in
    [0, 1). One of a score of -inf is never drawn.

    Raises:
        UserError: the scores of a row are not finite; a GPU, which would have to be waited for to
            know, draws the last token instead.
    """
    probabilities = logits.softmax(-1)
    if logits.device.type == "mps":  # it has no float64
        probabilities = probabilities.cpu()
    sums = _sums(probabilities, torch.float64)
    total, num_tokens = sums[:, -1], sums.shape[1]
    if sums.device.type == "cpu" and not total.isfinite().all():
        raise UserError(
            "the model's scores are not finite (NaN or infinite), so no token can be drawn: its "
            "weights are broken, or too large for the precision"
        )
    thresholds = uniform.to(sums.device) * total
    tokens = torch.searchsorted(sums, thresholds[:, None], right=True).squeeze(1)
    if sums.device.type != "cpu":
        tokens = tokens.clamp_max_(num_tokens - 1)
    return tokens.to(logits.device)


def _sums(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return the running sums of each row of ``x``.

    CUDA has no kernel for torch's deterministic mode, which would raise.
    """
    is_strict = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        if x.device.type == "cpu" and dtype is torch.float64:
            x = x.double()  # cumsum's own cast takes three times as long
        return x.cumsum(-1, dtype=dtype)
    finally:
        torch.use_deterministic_algorithms(is_strict, warn_only=warns)


def _has_penalty(config: GenerationConfig) -> bool:
    return config.repetition_penalty != 1 or _has_counts(config)


def _has_counts(config: GenerationConfig) -> bool:
    """Whether it matters which tokens the reply has, and how often."""
    return config.frequency_penalty != 0 or config.presence_penalty != 0


def _penalized(logits: Tensor, asked: Sequence[Asked]) -> Tensor:
    """Return scores (N, V) with the penalties of each row."""
    logits = logits.clone()
    for scores, each in zip(logits, asked, strict=True):
        config = each.config
        if not _has_penalty(config):
            continue
        seen = torch.tensor(each.tokens, device=logits.device)
        if (penalty := config.repetition_penalty) != 1:
            old = scores[seen]
            scores.index_copy_(0, seen, torch.where(old < 0, old * penalty, old / penalty))
        if _has_counts(config):
            reply = seen[each.num_prompt_tokens :]
            counts = torch.zeros_like(scores).index_add_(0, reply, torch.ones_like(scores[reply]))
            present = (counts > 0) * config.presence_penalty
            scores.sub_(counts * config.frequency_penalty + present)
    return logits


def _choose(logits: Tensor, asked: Sequence[Asked]) -> Tensor:
    """Return the next token (N,) of rows that all draw with the same cuts, or none draws."""
    config, device = asked[0].config, logits.device
    if config.temperature == 0:
        return logits.argmax(-1)
    temperatures = [each.config.temperature for each in asked]
    uniform = torch.tensor([each.uniform for each in asked], dtype=torch.float64)
    scores, num_tokens = logits, logits.shape[1]
    if any(temperature != 1 for temperature in temperatures):
        scores = logits / torch.tensor(temperatures, device=device)[:, None]
    cuts = Cuts(
        config.top_k if config.top_k is not None and config.top_k < num_tokens else None,
        config.top_p if config.top_p is not None and config.top_p < 1 else None,
        config.min_p,
    )
    if cuts.top_k is None and cuts.top_p is None:
        return draw(cuts.unlikely(scores), uniform)
    # One more than top_k: scores that equal its last one all stay.
    width = NUM_LIKELIEST if cuts.top_k is None else cuts.top_k + 1
    if width >= num_tokens:
        return cuts.draw(*scores.sort(descending=True), scores, uniform)
    likeliest, tokens = scores.topk(width)
    chosen = cuts.draw(likeliest, tokens, scores, uniform)
    rows = cuts.needs_more(likeliest, scores).nonzero().squeeze(1)
    if len(rows):
        some = scores[rows]
        chosen[rows] = cuts.draw(*some.sort(descending=True), some, uniform[rows.cpu()])
    return chosen


class Cuts(NamedTuple):
    """Which tokens may be drawn; None cuts nothing."""

    top_k: int | None
    top_p: float | None
    min_p: float | None

    def draw(self, likeliest: Tensor, tokens: Tensor, scores: Tensor, uniform: Tensor) -> Tensor:
        """Return a random token (N,) of the candidates that the cuts leave.

        Args:
            likeliest: (N, C) falling scores of the candidates.
            tokens: (N, C) which tokens they are.
            scores: (N, V) of all.
            uniform: (N,) float64, on the CPU.
        """
        if self.top_k is not None:
            least = likeliest[:, self.top_k - 1, None]
            likeliest = likeliest.masked_fill(likeliest < least, -torch.inf)
        if self.top_p is not None:
            total = (scores if self.top_k is None else likeliest).logsumexp(-1, keepdim=True)
            probabilities = (likeliest - total).exp()
            before = _sums(probabilities) - probabilities
            is_cut = before >= self.top_p
            is_cut[:, 0] = False  # top_p may round to 0
            likeliest = likeliest.masked_fill(is_cut, -torch.inf)
        choice = draw(self.unlikely(likeliest), uniform)
        return tokens.gather(1, choice[:, None]).squeeze(1)

    def unlikely(self, scores: Tensor) -> Tensor:
        """Return ``scores`` (N, C), -inf where ``min_p`` cuts."""
        if self.min_p is None:
            return scores
        probabilities = scores.softmax(-1)
        least = self.min_p * probabilities.amax(-1, keepdim=True)
        return scores.masked_fill(probabilities < least, -torch.inf)

    def needs_more(self, likeliest: Tensor, scores: Tensor) -> Tensor:
        """Return of which rows (N,) more than the ``likeliest`` (N, C) may be drawn."""
        if self.top_k is not None:
            return likeliest[:, -2] == likeliest[:, -1]
        assert self.top_p is not None
        total = scores.logsumexp(-1, keepdim=True)
        return (likeliest - total).exp().sum(-1) < self.top_p
