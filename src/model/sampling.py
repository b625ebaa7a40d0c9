"""From scores to the next token: the likeliest, or a random one.

The order and the meaning of the settings are Hugging Face's: repetition penalty, temperature,
top-k, top-p, min-p. OpenAI's frequency and presence penalty follow the repetition penalty, as in
vLLM.
"""

import torch
from torch import Tensor

from src.model.generation_config import GenerationConfig


def is_plain(config: GenerationConfig) -> bool:
    """Whether the next token is simply that of the highest score."""
    return config.temperature == 0 and config.repetition_penalty == 1 and not _has_counts(config)


def next_token(
    logits: Tensor,
    config: GenerationConfig,
    generator: torch.Generator,
    seen: Tensor,
    num_prompt_tokens: int,
) -> int:
    """Return a sequence's next token from its ``logits`` (V,): the likeliest, or a random one.

    A random one has the probabilities softmax(logits / temperature) after three cuts: to the
    ``top_k`` likeliest tokens; to the fewest whose probabilities reach ``top_p`` (nucleus sampling,
    arXiv:1904.09751); to those with at least ``min_p`` times the probability of the likeliest
    (arXiv:2407.01082).

    Args:
        logits: float32.
        config: the settings.
        generator: for random tokens, on the device of ``logits``.
        seen: int64 tokens of prompt and reply, which ``repetition_penalty`` makes less likely
            (arXiv:1909.05858): a positive score is divided by it, a negative one multiplied.
        num_prompt_tokens: how many of ``seen`` are the prompt. The others, the reply, are less
            likely by ``frequency_penalty`` times their number, and by ``presence_penalty`` once
            (https://platform.openai.com/docs/api-reference/chat/create).
    """
    if config.repetition_penalty != 1:
        scores = logits[seen]
        penalty = config.repetition_penalty
        scores = torch.where(scores < 0, scores * penalty, scores / penalty)
        logits = logits.index_copy(0, seen, scores)
    if _has_counts(config):
        tokens, counts = seen[num_prompt_tokens:].unique(return_counts=True)
        penalties = counts * config.frequency_penalty + config.presence_penalty
        logits = logits.index_add(0, tokens, penalties.to(logits.dtype), alpha=-1)
    if config.temperature == 0:
        return int(logits.argmax())
    return _draw(logits / config.temperature, config, generator)


def _has_counts(config: GenerationConfig) -> bool:
    """Whether it matters which tokens the reply has, and how often."""
    return config.frequency_penalty != 0 or config.presence_penalty != 0


def _draw(scores: Tensor, config: GenerationConfig, generator: torch.Generator) -> int:
    """Return a random token of those that the three cuts leave."""
    tokens = None
    if config.top_k is not None and config.top_k < len(scores):
        lowest = scores.topk(config.top_k).values[-1]
        tokens = (scores >= lowest).nonzero().squeeze(1)
        scores = scores[tokens]
    if config.top_p is not None and config.top_p < 1:
        scores, order = scores.sort(descending=True)
        probabilities = scores.softmax(-1)
        before = probabilities.cumsum(-1) - probabilities
        count = max(1, int((before < config.top_p).sum()))  # top_p may round to 0
        scores, order = scores[:count], order[:count]
        tokens = order if tokens is None else tokens[order]
    if config.min_p is not None:
        probabilities = scores.softmax(-1)
        likely = (probabilities >= config.min_p * probabilities.max()).nonzero().squeeze(1)
        scores = scores[likely]
        tokens = likely if tokens is None else tokens[likely]
    choice = torch.multinomial(scores.softmax(-1), 1, generator=generator)
    return int(choice if tokens is None else tokens[choice])
