"""A request's body: its bytes and its seconds are limited, then it is JSON of a known kind."""

import asyncio
import json
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from src.serving.errors import ApiError, invalid
from src.serving.fields import translate

T = TypeVar("T", bound=BaseModel)

DISCARD = 32  # times the limit is read and forgotten, so that the client reads the refusal


class BoundedBody:
    """ASGI middleware: ``app`` gets bodies of ``max_bytes`` at most that arrive in ``seconds``."""

    def __init__(self, app: ASGIApp, max_bytes: int, seconds: float):
        self.app = app
        self.max_bytes = max_bytes
        self.seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self.seconds):
                body = await self._read(receive)
        except TimeoutError:
            message = f"the request did not arrive within {self.seconds:g} seconds"
            await ApiError(message, code="timeout", status=408).close(scope, receive, send)
            return
        except ApiError as error:
            await error.close(scope, receive, send)
            return
        if body is None:
            return  # the client has gone

        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return messages.pop() if messages else await receive()

        await self.app(scope, replay, send)

    async def _read(self, receive: Receive) -> bytes | None:
        """Return the body; None: the client has gone."""
        body = bytearray()
        num_bytes, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            chunk = message.get("body", b"")
            more = message.get("more_body", False)
            num_bytes += len(chunk)
            if num_bytes <= self.max_bytes:
                body += chunk
            else:
                body.clear()
            if num_bytes > DISCARD * self.max_bytes:
                break
        if num_bytes > self.max_bytes:
            reason = f"the body has more than {self.max_bytes} bytes"
            raise ApiError(reason, code="request_too_large", status=413)
        return bytes(body)


def parse(body: bytes, headers: Headers, kind: type[T]) -> T:
    """Return a body as a request of ``kind``. This takes time: not in the event loop.

    A page of another site can send anything but ``application/json`` without asking us first.

    Raises:
        ApiError: it is no JSON object, or a field has a wrong value or is not supported.
    """
    media_type = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    try:
        fields = json.loads(body) if media_type == "application/json" else None
    except (ValueError, RecursionError) as error:
        at = f", byte {error.pos}" if isinstance(error, json.JSONDecodeError) else ""
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise ApiError(f"the body is not valid JSON: {reason}{at}") from error
    if not isinstance(fields, dict):
        raise ApiError("the body must be a JSON object, sent with Content-Type: application/json")
    try:
        return kind.model_validate(translate(fields))
    except ValidationError as error:
        raise invalid(error) from error
