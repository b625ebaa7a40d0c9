"""One line in the log a request: its id, its tokens and its seconds; none of its text."""

import logging
import time
import uuid
from dataclasses import dataclass, field

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

QUIET_PATHS = ("/health",)  # asked every few seconds

log = logging.getLogger(__name__)


@dataclass
class Record:
    """What is known of a request at its end."""

    id: str = field(default_factory=lambda: f"req-{uuid.uuid4().hex}")
    num_prompt_tokens: int = 0
    num_new_tokens: int = 0
    num_dropped_turns: int = 0
    fault: str = ""  # code and parameter of a refusal


class RequestLog:
    """ASGI middleware: gives each request a ``Record``, its id to the client, and its line."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        record = scope.setdefault("state", {})["record"] = Record()
        start, status = time.perf_counter(), 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = record.id
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        finally:
            if scope["path"] not in QUIET_PATHS or status >= 400:
                log.info(_line(scope, record, status, time.perf_counter() - start))


def _line(scope: Scope, record: Record, status: int, seconds: float) -> str:
    parts = []
    if record.num_prompt_tokens:
        parts.append(f"{record.num_prompt_tokens} + {record.num_new_tokens} tokens")
    if record.num_dropped_turns:
        parts.append(f"without the {record.num_dropped_turns} oldest turns")
    parts += [part for part in (record.fault,) if part]
    path = ascii(scope["path"])[1:-1][:80]
    head = f"{time.strftime('%H:%M:%S')} {scope['method'][:10]} {path} {status or 'left'}"
    return f"{head} {record.id}: {', '.join([*parts, f'{seconds:.2f} s'])}"
