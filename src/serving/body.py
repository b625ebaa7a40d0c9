"""A request's body is read before anything parses it; its bytes and its seconds are limited."""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from src.serving.errors import ApiError

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
