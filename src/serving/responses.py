"""How answers go out: whole, or as server-sent events, in OpenAI's two shapes."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from src.serving.answers import Answers
from src.serving.errors import ApiError
from src.talk.assistant import Reply

FINISH_REASONS = {"end": "stop", "stop": "stop", "length": "length", None: None}
CLIENT_CLOSED_REQUEST = 499  # nginx's; nobody reads it

Json = dict[str, Any]


class ChatShape:
    """``/v1/chat/completions``."""

    prefix = "chatcmpl-"
    whole, chunk = "chat.completion", "chat.completion.chunk"

    def first(self) -> Json | None:
        """What a stream says of an answer before its text."""
        return {"delta": {"role": "assistant", "content": ""}}

    def text(self, text: str) -> Json:
        """An answer's text."""
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def piece(self, piece: str) -> Json:
        """A piece of it."""
        return {"delta": {"content": piece} if piece else {}}


class TextShape:
    """``/v1/completions``."""

    prefix = "cmpl-"
    whole = chunk = "text_completion"

    def first(self) -> Json | None:
        """What a stream says of an answer before its text."""
        return None

    def text(self, text: str) -> Json:
        """An answer's text."""
        return {"text": text}

    piece = text


class Writer:
    """Writes the answers to one request.

    Args:
        shape: of the endpoint.
        model_name: what the client calls the model.
        num_prompt_tokens: of all prompts, each once.
        answers: what is written.
    """

    def __init__(
        self,
        shape: ChatShape | TextShape,
        model_name: str,
        num_prompt_tokens: int,
        answers: Answers,
    ):
        self.shape = shape
        self.answers = answers
        self.num_prompt_tokens = num_prompt_tokens
        self.head = {
            "id": shape.prefix + uuid.uuid4().hex,
            "created": int(time.time()),
            "model": model_name,
        }

    async def whole(self, request: Request) -> Response:
        """Return all answers when they have ended; a client that leaves stops them."""
        ended = asyncio.create_task(self.answers.wait())
        gone = asyncio.create_task(_disconnected(request.receive))
        try:
            await asyncio.wait((ended, gone), return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                return Response(status_code=CLIENT_CLOSED_REQUEST)
            ended.result()
        finally:
            self.answers.cancel()
            ended.cancel()
            gone.cancel()
        choices = [
            _choice(number, self.shape.text(reply.text), reply)
            for number, reply in enumerate(self.answers.replies)
        ]
        return JSONResponse(
            self.head | {"object": self.shape.whole, "choices": choices, "usage": self._usage()}
        )

    def stream(self, include_usage: bool) -> StreamingResponse:
        """Return the answers as they come; a client that leaves stops them."""
        return EventStream(self._events(include_usage), self.answers)

    async def _events(self, include_usage: bool) -> AsyncGenerator[str]:
        def event(choices: Iterable[Json], usage: Json | None = None) -> str:
            fields = {"object": self.shape.chunk, "choices": list(choices)}
            return _event(self.head | fields | ({"usage": usage} if include_usage else {}))

        replies = self.answers.replies
        if first := self.shape.first():
            for number in range(len(replies)):
                yield event([_choice(number, first)])
        try:
            async for number, piece, ended in self.answers:
                if piece:
                    yield event([_choice(number, self.shape.piece(piece))])
                if ended:
                    yield event([_choice(number, self.shape.piece(""), replies[number])])
            if include_usage:
                yield event([], self._usage())
        except ApiError as error:  # the status is sent already
            yield _event(error.body)
        yield "data: [DONE]\n\n"

    def _usage(self) -> Json:
        replies = self.answers.replies
        # The end token is counted, as everywhere in the field.
        new = sum(reply.num_new_tokens + (reply.stop_reason == "end") for reply in replies)
        return {
            "prompt_tokens": self.num_prompt_tokens,
            "completion_tokens": new,
            "total_tokens": self.num_prompt_tokens + new,
        }


class EventStream(StreamingResponse):
    """Server-sent events that end with their client, however it goes."""

    def __init__(self, events: AsyncGenerator[str], answers: Answers):
        super().__init__(
            events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"}
        )
        self.events = events
        self.answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with aclosing(self.events):
                await super().__call__(scope, receive, send)
        finally:
            self.answers.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _choice(number: int, content: Json, ended: Reply | None = None) -> Json:
    reason = FINISH_REASONS[ended.stop_reason if ended else None]
    return {"index": number, **content, "logprobs": None, "finish_reason": reason}


def _event(data: Json) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"
