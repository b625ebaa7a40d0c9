"""Whole answers in one call: ids in, ids out."""

from collections.abc import Collection, Generator, Sequence

from src.model.decoder import Decoder, check_prompt
from src.model.generation_config import GenerationConfig
from src.model.gpt2 import GPT2


def generate(
    model: GPT2,
    prompts: Sequence[Sequence[int]],
    end_ids: Collection[int],
    config: GenerationConfig,
    decoder: Decoder | None = None,
    numbers: Sequence[int] | None = None,
) -> Generator[list[int | None], None, None]:
    """Yield, step by step, the next token of each prompt; None for those that have ended.

    A sequence ends with any of ``end_ids`` (not yielded), after ``max_new_tokens``, or where the
    model has no more positions. All prompts are decoded together, each as if alone and with the
    same seed; replies of other numbers draw otherwise.

    Args:
        model: what decodes.
        prompts: token ids, of any lengths.
        end_ids: the tokens that end a reply.
        config: the settings of all prompts.
        decoder: one of this model with a free slot for each prompt; None: a new one.
        numbers: of the replies (``Decoder.join``); None: 0 for each.

    Raises:
        UserError: a prompt is empty or leaves no position for an answer.
    """
    positions = model.config.n_positions
    for prompt in prompts:
        check_prompt(prompt, positions)
    if decoder is None:
        longest = max(map(len, prompts), default=0) + config.max_new_tokens
        decoder = Decoder(model, len(prompts), config.weights, longest)
    slots = decoder.join(prompts, [config] * len(prompts), numbers)
    budgets = {
        slot: min(config.max_new_tokens, positions - len(prompt))
        for slot, prompt in zip(slots, prompts, strict=True)
    }
    try:
        while budgets:
            tokens = decoder.step()
            for slot in tuple(budgets):
                budgets[slot] -= 1
                ended = tokens[slot] in end_ids
                if ended:
                    del tokens[slot]
                if ended or not budgets[slot]:
                    del budgets[slot]
                    decoder.leave(slot)
            if tokens:
                yield [tokens.get(slot) for slot in slots]
    finally:
        for slot in budgets:
            decoder.leave(slot)
