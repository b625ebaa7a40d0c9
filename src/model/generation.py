"""Decoding with a KV cache: ids in, ids out.

The prompts are read in one pass (prefill), then every step costs one position a sequence.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from src.errors import UserError
from src.model.attention import CachedAttention
from src.model.gpt2 import GPT2

WEIGHTS = ("fp32", "bf16", "int8")


@dataclass
class GenerationConfig:
    """The values of ``conf/generation``; its comments say what each value means."""

    max_new_tokens: int
    temperature: float
    top_k: int | None
    top_p: float | None
    repetition_penalty: float
    stop: list[str]
    seed: int
    weights: str

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            UserError: names the key and what it may be.
        """
        if self.max_new_tokens < 1:
            raise UserError(f"max_new_tokens={self.max_new_tokens}: must be at least 1")
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"temperature={self.temperature}: must be 0 (greedy) or more")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top_k={self.top_k}: must be at least 1, or null")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top_p={self.top_p}: must be in (0, 1], or null")
        if not 0 < self.repetition_penalty < float("inf"):
            raise UserError(
                f"repetition_penalty={self.repetition_penalty}: must be above 0; 1 is none"
            )
        if not all(self.stop):
            raise UserError("stop: a stop string is empty; leave it out")
        if self.weights not in WEIGHTS:
            raise UserError(f"weights={self.weights}: must be one of {', '.join(WEIGHTS)}")


def next_token(logits: Tensor, config: GenerationConfig, generator: torch.Generator) -> Tensor:
    """Choose the next token (B,) from ``logits`` (B, V): the likeliest, or by chance.

    Chance draws from softmax(logits / temperature), cut to the ``top_k`` likeliest tokens and then
    to the fewest whose probabilities reach ``top_p`` (nucleus sampling, arXiv:1904.09751).
    """
    logits = logits.float()
    if config.temperature == 0:
        return logits.argmax(-1)
    logits = logits / config.temperature
    if config.top_k is not None and config.top_k < logits.shape[-1]:
        worst_kept = logits.topk(config.top_k).values[:, -1:]
        logits = logits.masked_fill(logits < worst_kept, float("-inf"))
    if config.top_p is not None and config.top_p < 1:
        ordered, index = logits.sort(descending=True)
        probabilities = ordered.softmax(-1)
        before = probabilities.cumsum(-1) - probabilities
        ordered = ordered.masked_fill(before >= config.top_p, float("-inf"))
        logits = logits.scatter(-1, index, ordered)
    return torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(-1)


@torch.inference_mode()
def generate(
    model: GPT2, prompts: Sequence[Sequence[int]], end_id: int, config: GenerationConfig
) -> Iterator[list[int | None]]:
    """Yield, step by step, the next token of each prompt; None for those that have ended.

    A sequence ends with ``end_id`` (not yielded), after ``max_new_tokens``, or where the model has
    no more positions. Prompts of different lengths are decoded together, each as if alone.

    Raises:
        UserError: a prompt is empty or leaves no position for an answer.
    """
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    longest, positions = int(lengths.max()), model.config.n_positions
    if lengths.min() < 1:
        raise UserError("the prompt is empty")
    if longest >= positions:
        raise UserError(
            f"the prompt has {longest} tokens and leaves no room for an answer: the model reads "
            f"at most {positions}; shorten it"
        )
    was_training = model.training
    model.eval()
    try:
        yield from _decode(model, prompts, lengths, end_id, config)
    finally:
        model.train(was_training)


def _decode(
    model: GPT2,
    prompts: Sequence[Sequence[int]],
    lengths: Tensor,
    end_id: int,
    config: GenerationConfig,
) -> Iterator[list[int | None]]:
    device = model.wte.weight.device
    generator = torch.Generator(device=device).manual_seed(config.seed)
    shape, longest = model.config, int(lengths.max())
    num_positions = min(shape.n_positions, longest + config.max_new_tokens)
    cache = CachedAttention(
        (
            shape.n_layer,
            len(prompts),
            shape.n_head,
            num_positions,
            shape.n_embd // shape.n_head,
        ),
        model.wte.weight.dtype,
        device,
    )
    input_ids = torch.full((len(prompts), longest), end_id)
    for row, prompt in enumerate(prompts):
        input_ids[row, : len(prompt)] = torch.tensor(prompt)
    position_ids = torch.arange(longest).expand_as(input_ids).to(device)
    lengths = lengths.to(device)
    # forward, not model(...): a training run's compiled call would be compiled again for every
    # shape that decoding has.
    hidden = model.forward(input_ids.to(device), position_ids, attention=cache.at(position_ids))
    last = hidden[torch.arange(len(prompts), device=device), lengths - 1]  # (B, D)

    ended = [False] * len(prompts)
    room = (shape.n_positions - lengths).tolist()
    for step in range(config.max_new_tokens):
        tokens = next_token(model.logits(last), config, generator)
        values = tokens.tolist()
        for row, token in enumerate(values):
            ended[row] = ended[row] or token == end_id or step >= room[row]
        if all(ended):
            return
        yield [None if ended[row] else token for row, token in enumerate(values)]
        if step + 1 < config.max_new_tokens:
            # An ended sequence stays at its last position; nobody reads what it writes there.
            at = torch.clamp(lengths + step, max=num_positions - 1)[:, None]
            last = model.forward(tokens[:, None], at, attention=cache.at(at))[:, 0]
