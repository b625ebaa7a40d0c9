"""Several replies to each prompt, drawn from a model."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from src.data.comparison import Context
from src.model.decoder import Decoder
from src.model.generation_config import GenerationConfig
from src.talk.assistant import Assistant
from src.talk.messages import Message
from src.talk.text_stream import TextStream


class Prompt(NamedTuple):
    """What is replied to; ``input_ids`` leave room for a reply."""

    context: Context
    family: str
    input_ids: Sequence[int]


@dataclass(frozen=True)
class Drawn:
    """A prompt with its replies; ``ended``: by the end token, not by a limit."""

    context: Context
    family: str
    replies: tuple[str, ...]
    ended: tuple[bool, ...]


@dataclass
class _Job:
    prompt: int
    number: int
    budget: int
    stream: TextStream = field(repr=False)
    ended: bool = False


def messages_of(context: Context) -> list[Message]:
    """Return a context as messages, a question at their end."""
    turns, prompt, system, opening = context
    messages = [Message("system", system)] if system else []
    messages += [Message("assistant", opening)] if opening else []
    for question, reply in turns:
        messages += [Message("user", question), Message("assistant", reply)]
    return [*messages, Message("user", prompt)]


def draw_seed(seed: int, context: Context, number: int) -> int:
    """Return the seed of a reply: of its prompt and number, whatever is drawn beside it."""
    facts = repr((seed, tuple(context), number)).encode()
    return int.from_bytes(hashlib.blake2b(facts, digest_size=7).digest())


def draw(
    assistant: Assistant,
    prompts: Sequence[Prompt],
    num_replies: int,
    generation: GenerationConfig,
    batch_size: int,
) -> Iterator[Drawn]:
    """Yield the replies to each prompt, in order; a slot that is free takes the next reply.

    Args:
        assistant: the model and its tokenizer.
        prompts: they leave room for ``max_new_tokens``, as the assistant's template writes them.
        num_replies: to a prompt.
        generation: how they are drawn; each has a seed of its own.
        batch_size: replies at a time, at most.
    """
    ids = [prompt.input_ids for prompt in prompts]
    jobs = ((prompt, number) for prompt in range(len(ids)) for number in range(num_replies))
    most = max(map(len, ids), default=0) + generation.max_new_tokens
    num_slots = min(batch_size, max(1, len(ids) * num_replies))
    decoder = Decoder(assistant.model, num_slots, generation.weights, most)
    running: dict[int, _Job] = {}
    done: dict[int, dict[int, _Job]] = {}
    following = 0
    while following < len(ids):
        if decoder.num_free_slots * 4 >= num_slots or not running:
            starting = [job for _, job in zip(range(decoder.num_free_slots), jobs, strict=False)]
            configs = [
                replace(
                    generation, seed=draw_seed(generation.seed, prompts[prompt].context, number)
                )
                for prompt, number in starting
            ]
            slots = decoder.join([ids[prompt] for prompt, _ in starting], configs)
            for slot, (prompt, number) in zip(slots, starting, strict=True):
                budget = min(
                    generation.max_new_tokens, assistant.model.config.n_positions - len(ids[prompt])
                )
                stream = TextStream(assistant.tokenizer, generation.stop)
                running[slot] = _Job(prompt, number, budget, stream)
        for slot, token in decoder.step().items():
            job = running[slot]
            job.budget -= 1
            job.ended = token in assistant.end_ids
            if not job.ended:
                job.stream.push(token)
            if job.ended or job.stream.stopped or not job.budget:
                job.ended |= job.stream.stopped
                decoder.leave(slot)
                done.setdefault(job.prompt, {})[job.number] = running.pop(slot)
        while len(done.get(following, ())) == num_replies:
            yield _drawn(prompts[following], done.pop(following))
            following += 1


def _drawn(prompt: Prompt, jobs: dict[int, _Job]) -> Drawn:
    """Return the replies of a prompt; one that was cut off before it said anything is none."""
    found = []
    for number in sorted(jobs):
        job = jobs[number]
        job.stream.finish()
        text = job.stream.text.strip()
        if text or job.ended:
            found.append((text, job.ended))
    replies, ended = zip(*found, strict=True) if found else ((), ())
    return Drawn(prompt.context, prompt.family, replies, ended)
