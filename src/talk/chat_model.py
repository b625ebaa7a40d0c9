"""A model that answers a person's Python: text in, text out."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import fields, replace
from typing import Any

from src.errors import UserError
from src.free_threads import FreeThreads
from src.model.generation_config import GenerationConfig
from src.talk.assistant import Assistant, Reply
from src.talk.messages import Message, read_question
from src.talk.opening import opening

Prompt = str | Sequence[Mapping[str, str] | Message]


class ChatModel:
    """A model with the settings by which it answers; a call may change any of them.

    Args:
        assistant: the model.
        generation: how replies are decoded.
        name: where it came from.
        threads: that compute a reply.
    """

    def __init__(
        self, assistant: Assistant, generation: GenerationConfig, name: str, threads: FreeThreads
    ):
        self.assistant = assistant
        self.generation = generation
        self.name = name
        self.threads = threads

    def __repr__(self) -> str:
        model = self.assistant.model
        return f"<{self.name}: {model.num_parameters:,} parameters on {model.wte.weight.device}>"

    def reply(self, prompt: Prompt, system: str | None = None, **settings: Any) -> str:
        """Return the reply to a question, or to a conversation that ends with one.

        Args:
            prompt: a text, or messages such as ``{"role": "user", "content": "Who are you?"}``.
            system: a text that stands before them.
            settings: of ``conf/generation``, for this reply: ``temperature=0.7``.

        Raises:
            UserError: a message or a setting cannot be used.
        """
        return "".join(self.stream(prompt, system, **settings))

    def stream(self, prompt: Prompt, system: str | None = None, **settings: Any) -> Iterator[str]:
        """Return the pieces of a reply as they are decoded; see ``reply``."""
        messages = [*opening(self.assistant, system), *_messages(prompt)]
        return self._pieces(self.assistant.reply(messages, self._generation(settings)))

    def _pieces(self, reply: Reply) -> Iterator[str]:
        pieces = iter(reply)
        with closing(reply):
            while True:
                with self.threads.meanwhile():  # the caller computes between two pieces, too
                    piece = next(pieces, None)
                if piece is None:
                    return
                yield piece

    def replies(self, prompts: Sequence[Prompt], **settings: Any) -> list[str]:
        """Return the reply to each of several questions, which are decoded together.

        Raises:
            UserError: as ``reply``; or there is one question, and no list of them.
        """
        if isinstance(prompts, str):
            raise UserError(f"replies takes a list of questions, not one: {prompts!r:.60}")
        asked = [_messages(prompt) for prompt in prompts]
        with self.threads.meanwhile():
            return self.assistant.replies(asked, self._generation(settings))

    def _generation(self, settings: Mapping[str, Any]) -> GenerationConfig:
        known = [field.name for field in fields(GenerationConfig)]
        for key in settings:
            if key not in known:
                close = difflib.get_close_matches(key, known, n=1)
                hint = f"did you mean {close[0]}? " if close else ""
                raise UserError(f"{key}: no such setting; {hint}there are {', '.join(known)}")
        try:
            return replace(self.generation, **settings)
        except TypeError as error:  # a text where a number belongs
            given = ", ".join(f"{key}={value!r}" for key, value in settings.items())
            raise UserError(f"{given}: {error}") from error


def _messages(prompt: Prompt) -> list[Message]:
    if isinstance(prompt, str):
        return [Message("user", prompt)]
    if not isinstance(prompt, Sequence):  # one message, say
        raise UserError(f"a question is a text or a list of messages, not {prompt!r:.60}")
    plain = [vars(each) if isinstance(each, Message) else each for each in prompt]
    return read_question(plain).messages
