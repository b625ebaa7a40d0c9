"""Several replies to each prompt, drawn from a model."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from src.data.comparison import Context
from src.model.decoder import Decoder
from src.model.generation_config import GenerationConfig
from src.talk.assistant import Assistant
from src.talk.messages import Message
from src.talk.text_stream import TextStream


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
    contexts: Sequence[tuple[Context, str]],
    num_replies: int,
    generation: GenerationConfig,
    batch_size: int,
) -> Iterator[Drawn]:
    """Yield the replies to each prompt, in order; a slot that is free takes the next reply.

    Args:
        assistant: the model, its tokenizer and its template.
        contexts: prompts that leave room for ``max_new_tokens``, with the family of each.
        num_replies: to a prompt.
        generation: how they are drawn; each has a seed of its own.
        batch_size: replies at a time, at most.
    """
    ids = [assistant.template(messages_of(context)) for context, _ in contexts]
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
                replace(generation, seed=draw_seed(generation.seed, contexts[prompt][0], number))
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
            yield _drawn(contexts[following], done.pop(following))
            following += 1


def _drawn(prompt: tuple[Context, str], jobs: dict[int, _Job]) -> Drawn:
    found = [jobs[number] for number in sorted(jobs)]
    for job in found:
        job.stream.finish()
    context, family = prompt
    replies = tuple(job.stream.text.strip() for job in found)
    return Drawn(context, family, replies, tuple(job.ended for job in found))
