"""Responses in OpenAI's two shapes: one JSON object, or a stream of server-sent events."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from src.serving.answers import Answers
from src.serving.errors import ApiError
from src.serving.request_log import Record
from src.talk.assistant import Reply

FINISH_REASONS = {"end": "stop", "stop": "stop", "length": "length", None: None}
CLIENT_CLOSED_REQUEST = 499  # nginx's; nobody reads it

Json = dict[str, Any]


class ChatShape:
    """``/v1/chat/completions``."""

    prefix = "chatcmpl-"
    response, chunk = "chat.completion", "chat.completion.chunk"
    opening = Json(delta={"role": "assistant", "content": ""})  # in a stream, before the text

    def text(self, text: str) -> Json:
        """Return the fields of an answer's text."""
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def piece(self, piece: str) -> Json:
        """Return the fields of a piece of it."""
        return {"delta": {"content": piece} if piece else {}}


class TextShape:
    """``/v1/completions``."""

    prefix = "cmpl-"
    response = chunk = "text_completion"
    opening = None

    def text(self, text: str) -> Json:
        """Return the fields of an answer's text."""
        return {"text": text}

    piece = text


class Writer:
    """Writes the answers to one request, and into ``record`` how many tokens they have."""

    def __init__(
        self,
        shape: ChatShape | TextShape,
        model_name: str,
        record: Record,
        answers: Answers,
    ):
        self.shape = shape
        self.answers = answers
        self.record = record
        record.id = shape.prefix + uuid.uuid4().hex
        self.head = {"id": record.id, "created": int(time.time()), "model": model_name}
        if isinstance(shape, ChatShape):
            self.head["num_dropped_turns"] = record.num_dropped_turns

    async def respond(self, request: Request) -> Response:
        """Return all answers when they have ended; a client that disconnects stops them."""
        end = asyncio.create_task(self.answers.wait())
        disconnect = asyncio.create_task(_disconnect(request.receive))
        try:
            await asyncio.wait((end, disconnect), return_when=asyncio.FIRST_COMPLETED)
            if not end.done():
                return Response(status_code=CLIENT_CLOSED_REQUEST)
            end.result()
        finally:
            self._count()
            self.answers.cancel()
            end.cancel()
            disconnect.cancel()
        choices = [
            _choice(number, self.shape.text(reply.text), reply)
            for number, reply in enumerate(self.answers.replies)
        ]
        return JSONResponse(
            self.head | {"object": self.shape.response, "choices": choices, "usage": self._usage()}
        )

    def stream(self, include_usage: bool) -> StreamingResponse:
        """Return a stream of the answers; a client that disconnects stops them."""
        return EventStream(self._events(include_usage), self.answers, self._count)

    async def _events(self, include_usage: bool) -> AsyncGenerator[str]:
        def event(choices: Iterable[Json], usage: Json | None = None) -> str:
            fields = {"object": self.shape.chunk, "choices": list(choices)}
            return _event(self.head | fields | ({"usage": usage} if include_usage else {}))

        replies = self.answers.replies
        if self.shape.opening:
            for number in range(len(replies)):
                yield event([_choice(number, self.shape.opening)])
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

    def _count(self) -> None:
        # Other servers count the end token, too.
        self.record.num_new_tokens = sum(
            reply.num_new_tokens + (reply.stop_reason == "end") for reply in self.answers.replies
        )

    def _usage(self) -> Json:
        self._count()
        num_prompt, num_new = self.record.num_prompt_tokens, self.record.num_new_tokens
        return {
            "prompt_tokens": num_prompt,
            "completion_tokens": num_new,
            "total_tokens": num_prompt + num_new,
        }


class EventStream(StreamingResponse):
    """Server-sent events; when the client disconnects, decoding ends. At the end, ``count``."""

    def __init__(self, events: AsyncGenerator[str], answers: Answers, count: Callable[[], None]):
        super().__init__(
            events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"}
        )
        self.events = events
        self.answers = answers
        self.count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with aclosing(self.events):
                await super().__call__(scope, receive, send)
        finally:
            self.count()
            self.answers.cancel()


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _choice(number: int, content: Json, reply: Reply | None = None) -> Json:
    reason = FINISH_REASONS[reply.stop_reason if reply else None]
    return {"index": number, **content, "logprobs": None, "finish_reason": reason}


def _event(data: Json) -> str:
    # ASCII: some clients take U+2028, and others of its kind, for the end of a line.
    return f"data: {json.dumps(data)}\n\n"
