"""What a model answers: replies in batches, by our own decoder."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from src.errors import UserError
from src.evaluation.rows import EvaluationRow
from src.model.decoder import Decoder
from src.model.generation import generate
from src.model.generation_config import GenerationConfig
from src.talk.assistant import Assistant
from src.talk.messages import Message, fit
from src.talk.text_stream import TextStream


@dataclass(frozen=True)
class Answer:
    """One reply.

    Attributes:
        text: what was said.
        stop_reason: ``end`` (the model's end token), ``stop`` (a stop string), ``length``, or
            ``unreadable``: the question does not fit, or the chat template refuses it.
        num_tokens: of the reply, without its end token; None: unknown.
    """

    text: str
    stop_reason: str
    num_tokens: int | None = None

    @property
    def was_asked(self) -> bool:
        """Whether the model could read the question."""
        return self.stop_reason != "unreadable"


UNREADABLE = Answer("", "unreadable")


def choose_rows(rows: Sequence[EvaluationRow], num_replies: int | None, seed: int) -> list[int]:
    """Return the numbers of the rows that are asked, in order: all, or so many drawn by chance."""
    if num_replies is None or num_replies >= len(rows):
        return list(range(len(rows)))
    drawn = np.random.default_rng(seed).choice(len(rows), size=num_replies, replace=False)
    return sorted(drawn.tolist())


def answer_all(
    assistant: Assistant,
    questions: Sequence[Sequence[Message]],
    generation: GenerationConfig,
    batch_size: int,
    progress: Callable[[int], object] = lambda _: None,
) -> list[Answer]:
    """Return the reply to each question; similar lengths are decoded together.

    A reply is the same whatever is decoded beside it. ``progress`` is told how many are done.
    """
    answers = [UNREADABLE] * len(questions)
    ids = [_read(assistant, question, generation) for question in questions]
    readable = sorted((i for i, each in enumerate(ids) if each), key=lambda i: len(ids[i]))
    progress(len(questions) - len(readable))
    if not readable:
        return answers
    longest = len(ids[readable[-1]]) + generation.max_new_tokens
    slots = min(batch_size, len(readable))
    decoder = Decoder(assistant.model, slots, generation.weights, longest)
    for first in range(0, len(readable), batch_size):
        numbers = readable[first : first + batch_size]
        prompts = [ids[number] for number in numbers]
        for number, answer in zip(
            numbers, _answer(assistant, prompts, generation, decoder), strict=True
        ):
            answers[number] = answer
        progress(len(numbers))
    return answers


def _read(
    assistant: Assistant, question: Sequence[Message], generation: GenerationConfig
) -> list[int]:
    """Return the ids of a question; none if the model cannot read it."""
    positions = assistant.model.config.n_positions
    try:
        return fit(question, assistant.template, positions, generation.max_new_tokens).ids
    except UserError:  # too long, or refused by the template: counted as unreadable
        return []


def _answer(
    assistant: Assistant,
    prompts: list[list[int]],
    generation: GenerationConfig,
    decoder: Decoder,
) -> list[Answer]:
    positions = assistant.model.config.n_positions
    streams = [TextStream(assistant.tokenizer, generation.stop) for _ in prompts]
    counts = [0] * len(prompts)
    steps = generate(assistant.model, prompts, assistant.end_ids, generation, decoder)
    with closing(steps):
        for step in steps:
            for i, token in enumerate(step):
                if token is not None and not streams[i].stopped:
                    counts[i] += 1
                    streams[i].push(token)
            if all(stream.stopped for stream in streams):
                break
    answers = []
    for stream, prompt, count in zip(streams, prompts, counts, strict=True):
        stream.finish()
        budget = min(generation.max_new_tokens, positions - len(prompt))
        reason = "stop" if stream.stopped else "length" if count == budget else "end"
        answers.append(Answer(stream.text, reason, count))
    return answers
