"""Questions of the page become events: the pieces of the answers, and lines about them."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from random import SystemRandom
from typing import Any

from src.errors import UserError
from src.model.generation_config import KINDS, NUMBERS, GenerationConfig
from src.page.history import complete_turns, newest_turns
from src.page.models import Models
from src.page.question import Question, Text
from src.talk.assistant import Reply
from src.talk.messages import Message
from src.talk.opening import opening

# {"answer": which, "piece": text, "status": a line, "end": whether that was all},
# {"answer": which, "error": a line}, or {"error": a line}: nothing will be answered.
Event = dict[str, Any]
SLIDERS = {name: setting.slider for name, setting in NUMBERS.items() if setting.slider}
MAX_HISTORY = 4  # longest questions: the conversation is cut to as many characters


@dataclass(frozen=True)
class Limits:
    """How long a question may be and an answer may take, and how many questions may wait."""

    prompt_characters: int
    seconds: float
    queue: int


class Answers:
    """Answers questions, one after the other, with the models that ``labels`` names."""

    def __init__(
        self,
        models: Models,
        labels: Mapping[str, str],
        generation: GenerationConfig,
        limits: Limits,
    ):
        self.models = models
        self.labels = labels
        self.generation = generation
        self.limits = limits
        self.random = SystemRandom()

    def events(self, question: Question) -> Generator[Event]:
        """Yield what happens; two models take turns, piece by piece."""
        replies: dict[int, Reply] = {}
        try:
            generation = self.generation_of(question)
            for index, wanted in enumerate(question.answers):
                if wanted.model in self.labels and wanted.model not in self.models:
                    yield progress(index, f"{self.labels[wanted.model]} is loaded")
                try:
                    replies[index] = self.start(
                        wanted.model, wanted.messages, generation, question.system
                    )
                except UserError as error:
                    yield {"answer": index, "error": str(error)}
            yield from self._pieces(replies)
        except UserError as error:
            yield {"error": str(error)}
        finally:  # stopped, or the person left
            for reply in replies.values():
                reply.close()

    def _pieces(self, replies: Mapping[int, Reply]) -> Iterator[Event]:
        streams = {index: iter(reply) for index, reply in replies.items()}
        while streams:
            for index in tuple(streams):
                piece = next(streams[index], None)
                if piece is None:
                    del streams[index]
                yield {
                    "answer": index,
                    "piece": piece or "",
                    "status": status(replies[index]),
                    "end": piece is None,
                }

    def start(
        self, model: str, texts: Sequence[Text], generation: GenerationConfig, system: str = ""
    ) -> Reply:
        """Return the reply of a model to a conversation.

        Raises:
            UserError: the model is none of the choices, or the conversation is too long.
        """
        if model not in self.labels:
            raise UserError(f"there is no model {model} here")
        limit = self.limits.prompt_characters
        *before, question = [Message(text.role, text.content) for text in texts]
        for what, text in (("message", question.content), ("system text", system)):
            if len(text) > limit:
                raise UserError(
                    f"the {what} has {len(text):,} characters, and {limit:,} are the most: "
                    f"shorten it"
                )
        messages = [*complete_turns(before), question]
        newest = newest_turns(messages, MAX_HISTORY * limit)
        assistant = self.models.get(model)
        prompt = [*opening(assistant, system), *newest]
        reply = assistant.reply(prompt, generation, self.limits.seconds)
        reply.num_dropped_turns += (len(messages) - len(newest)) // 2
        return reply

    def generation_of(self, question: Question) -> GenerationConfig:
        """Return the settings of the page as a config; without a seed, another each time.

        Raises:
            UserError: one is unknown, or out of range.
        """
        values: dict[str, Any] = {"stop": question.stop}
        for name, number in question.numbers.items():
            if name not in SLIDERS:
                raise UserError(f"there is no setting {name}")
            if number is None:
                continue
            if KINDS[name] is int and number != int(number):
                raise UserError(f"{name}={number:g}: must be a whole number")
            values[name] = NUMBERS[name].from_number(KINDS[name](number))
        try:
            seed = question.seed.strip()
            values["seed"] = int(seed) if seed else self.random.getrandbits(31)
        except ValueError as error:
            raise UserError(f"seed={question.seed}: must be a whole number, or empty") from error
        return replace(self.generation, **values)


def progress(index: int, line: str) -> Event:
    """Return an event that brings no text."""
    return {"answer": index, "piece": "", "status": line, "end": False}


def status(reply: Reply) -> str:
    """Return a line about a reply: its tokens, its speed, why it ended, what it left out."""
    reasons = {
        "end": "it said all it had to say",
        "stop": "a stop string ended it",
        "length": "it reached its limit",
        "timeout": f"it took longer than {reply.max_seconds:g} seconds",
        "cancelled": "it was stopped",
    }
    parts = [
        _count(reply.num_new_tokens, "token"),
        f"{reply.tokens_per_second:,.0f} tokens/s",
    ]
    line = ", ".join(parts)
    if reply.stop_reason:
        line += f"; {reasons[reply.stop_reason]}"
    if reply.num_dropped_turns:
        line += f"; no room for the {_count(reply.num_dropped_turns, 'oldest turn')}"
    return line


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
