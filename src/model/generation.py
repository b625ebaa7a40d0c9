"""Whole answers in one call: ids in, ids out."""

from collections.abc import Iterator, Sequence

from src.model.decoder import Decoder, check_prompt
from src.model.generation_config import GenerationConfig
from src.model.gpt2 import GPT2


def generate(
    model: GPT2, prompts: Sequence[Sequence[int]], end_id: int, config: GenerationConfig
) -> Iterator[list[int | None]]:
    """Yield, step by step, the next token of each prompt; None for those that have ended.

    A sequence ends with ``end_id`` (not yielded), after ``max_new_tokens``, or where the model has
    no more positions. Prompts of different lengths are decoded together, each as if alone.

    Raises:
        UserError: a prompt is empty or leaves no position for an answer.
    """
    positions = model.config.n_positions
    for prompt in prompts:
        check_prompt(prompt, positions)
    longest = max(map(len, prompts)) + config.max_new_tokens
    decoder = Decoder(model, len(prompts), config.weights, longest)
    slots = decoder.join(prompts, [config] * len(prompts))
    left = {
        slot: min(config.max_new_tokens, positions - len(prompt))
        for slot, prompt in zip(slots, prompts, strict=True)
    }
    while left:
        tokens = decoder.step()
        for slot in list(tokens):
            left[slot] -= 1
            if tokens[slot] == end_id:
                del tokens[slot], left[slot]
                decoder.leave(slot)
            elif not left[slot]:
                del left[slot]
                decoder.leave(slot)
        if tokens:
            yield [tokens.get(slot) for slot in slots]
