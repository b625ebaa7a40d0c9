"""The page's server: its files, its options, and answers as lines of JSON.

One thread does the models' work, so questions are answered one after the other.
"""

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path
from typing import Any, TypeVar

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from src.address import is_own_name
from src.errors import UserError
from src.page.answers import Answers, Event, progress
from src.page.question import Question, read_question
from src.page.ranking import Ranker, read_move

FILES = Path(__file__).parent / "browser"
MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
HEADERS = {
    # The browser asks nobody but this server, whatever a model or a person writes.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",  # after an update nobody sees the old page
}
MAX_BODY = 16 * 2**20  # bytes of a question with its conversation
SEND_SECONDS = 60.0  # that a browser may take to read a line
T = TypeVar("T")
STOP_SECONDS = 10  # for the answers under way when the server stops


class Lines(StreamingResponse):
    """Events as lines of JSON; ends with a browser that has gone or that does not read."""

    body_iterator: AsyncGenerator[bytes]

    async def stream_response(self, send: Send) -> None:
        async def send_in_time(message: Message) -> None:
            async with asyncio.timeout(SEND_SECONDS):
                await send(message)

        async with aclosing(self.body_iterator):
            await super().stream_response(send_in_time)


class Guard:
    """ASGI middleware: adds ``HEADERS``, and refuses requests that call ``host`` by another name.

    None: it has any name.
    """

    def __init__(self, app: ASGIApp, host: str | None):
        self.app = app
        self.host = host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(key.lower().encode(), value.encode()) for key, value in HEADERS.items()]
                message["headers"] = [*message["headers"], *own]
            await send(message)

        app = self.app
        if scope["type"] == "http" and self.host is not None:
            header = Headers(scope=scope).get("Host", "")
            if not is_own_name(header, self.host):
                name = ascii(header)[1:-1][:100]
                app = mistake(f"there is no {name} here: host=0.0.0.0 serves every name", 403)
        await app(scope, receive, send_with_headers)


class PageServer(uvicorn.Server):
    """Serves the page until Ctrl-C or SIGTERM; ends the answers under way, and raises the signal.

    Args:
        answers: what answers.
        ranker: what asks a person to rank replies.
        options: what the browser is told when it opens the page.
        host: the name of this server, where it is for this machine only; None: any name.
    """

    def __init__(
        self, answers: Answers, ranker: Ranker, options: Mapping[str, Any], host: str | None
    ):
        self.answers = answers
        self.ranker = ranker
        self.options = options
        self.thread = ThreadPoolExecutor(1, "models")
        self.turn = asyncio.Lock()
        self.num_waiting = 0
        self.stopping = False
        routes = [
            Route("/", _file("page.html")),
            *(Route(f"/{path.name}", _file(path.name)) for path in FILES.glob("*.*s*")),
            Route("/options", self.send_options),
            Route("/answers", self.answer, methods=["POST"]),
            Route("/ranking", self.rank, methods=["POST"]),
        ]
        app = Starlette(routes=routes, middleware=[Middleware(Guard, host=host)])
        super().__init__(
            uvicorn.Config(
                app,
                ws="none",
                loop="asyncio",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=STOP_SECONDS,
            )
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.stopping = True
        await super().shutdown(sockets)
        self.thread.shutdown(wait=False, cancel_futures=True)

    async def send_options(self, request: Request) -> Response:
        """Return what the page starts with."""
        return JSONResponse(self.options)

    async def answer(self, request: Request) -> Response:
        """Return the events of a question, as they happen."""
        question = await _read(request, read_question)
        if isinstance(question, Response):
            return question
        if self.num_waiting >= self.answers.limits.queue and self.turn.locked():
            return mistake(f"too many questions wait ({self.num_waiting}): ask later", 503)
        return Lines(self.lines(question), media_type="application/x-ndjson")

    async def rank(self, request: Request) -> Response:
        """Return what the tab of rankings shows after a person's move."""
        move = await _read(request, read_move)
        if isinstance(move, Response):
            return move
        try:
            shown = await self._in_thread(self.ranker.play, move)
        except UserError as error:
            return mistake(str(error), 400)
        self.thread.submit(self.ranker.prepare)
        return JSONResponse(shown)

    async def lines(self, question: Question) -> AsyncGenerator[bytes]:
        """Yield the events of a question, each as a line, when it is its turn."""
        if self.turn.locked():
            before = self.num_waiting + 1
            yield _line(progress(0, f"it waits: {before} before it"))
        self.num_waiting += 1
        try:
            await self.turn.acquire()
        finally:
            self.num_waiting -= 1
        events = self.answers.events(question)
        try:
            while (event := await self._next(events)) is not None:
                yield _line(event)
                if self.stopping:
                    break
        finally:
            self.thread.submit(events.close)  # after the step that the thread may be in
            self.turn.release()

    async def _next(self, events: Iterator[Event]) -> Event | None:
        return await self._in_thread(next, events, None)

    async def _in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.thread, function, *arguments)


async def _read(request: Request, read: Callable[[bytes], T]) -> T | Response:
    """Return what ``read`` finds in a request of the page, or the refusal."""
    # A page of another site can send a form without asking, but not this type.
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        return mistake("a question is JSON", 415)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            return mistake("the conversation is too long: begin a new one", 413)
    try:
        return read(bytes(body))
    except UserError as error:
        return mistake(str(error), 400)


def mistake(text: str, status: int) -> Response:
    """Return a refusal that the page shows in one line."""
    return JSONResponse({"error": text}, status)


def _file(name: str) -> Any:
    path = FILES / name

    async def send(request: Request) -> Response:
        return FileResponse(path, media_type=MEDIA_TYPES[path.suffix])

    return send


def _line(event: Event) -> bytes:
    return json.dumps(event).encode() + b"\n"
