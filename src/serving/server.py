"""Uvicorn with limits: on connections, on slow clients, and on the time that it takes to stop."""

import asyncio
import socket
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from src.serving.config import ServeConfig
from src.serving.engine import Engine
from src.serving.errors import busy

SLACK = 5.0  # seconds to send an answer after its time limit


async def _too_many(scope: Scope, receive: Receive, send: Send) -> None:
    await busy("too many connections; try again", 503).close(scope, receive, send)


class Connection(H11Protocol):
    """A connection that nobody can hold for long; ``make_server`` sets its limits.

    The head of a request must arrive within ``receive_seconds``; for the first request the time
    counts from the connection on. The response must end within further ``exchange_seconds``.
    Between requests uvicorn's ``timeout_keep_alive`` counts. Beyond ``limit`` connections a request
    is answered with 503. Beyond twice as many, a connection is cut off: a client that never sends a
    request holds one too.
    """

    receive_seconds: float
    exchange_seconds: float
    limit: int
    timer: asyncio.TimerHandle | None = None
    timer_exchange: object = None  # the exchange that the timer is for

    # uvicorn's own narrows asyncio's type in the same way: BaseTransport has no abort().
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > 2 * self.limit:
            transport.abort()
            return
        if len(self.connections) > self.limit:
            self.app = _too_many
        self._arm(self.receive_seconds)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        exchange = self.cycle if self.cycle and not self.cycle.response_complete else None
        if exchange is not self.timer_exchange:
            self.timer_exchange = exchange
            self._arm(self.exchange_seconds if exchange else self.receive_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.timer is not None:
            self.timer.cancel()

    def _arm(self, seconds: float) -> None:
        if self.timer is not None:
            self.timer.cancel()
        self.timer = self.loop.call_later(seconds, self.transport.abort)


class Server(uvicorn.Server):
    """Calls ``ready`` when it listens; at its stop, answers have ``shutdown_seconds`` to end."""

    def __init__(
        self,
        config: uvicorn.Config,
        engine: Engine,
        shutdown_seconds: float,
        ready: Callable[[], None],
    ):
        super().__init__(config)
        self.engine = engine
        self.shutdown_seconds = shutdown_seconds
        self.ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # A stopped engine ends every answer, so each is sent and none has to be cancelled.
        asyncio.get_running_loop().call_later(self.shutdown_seconds, self.engine.stop)
        await super().shutdown(sockets)
        self.engine.stop()
        if self.server_state.tasks:  # a second Ctrl-C
            await asyncio.wait(self.server_state.tasks, timeout=1)


def make_server(
    app: ASGIApp, engine: Engine, settings: ServeConfig, ready: Callable[[], None]
) -> Server:
    """Return a server; its ``run`` ends at a signal, and raises the signal again at the end."""

    class LimitedConnection(Connection):
        receive_seconds = settings.receive_seconds
        exchange_seconds = settings.receive_seconds + settings.max_seconds + SLACK
        limit = settings.max_connections

    config = uvicorn.Config(
        app,
        http=LimitedConnection,
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        # Typed int, but asyncio gets both: fractions of a second count.
        timeout_keep_alive=settings.receive_seconds / 2,  # type: ignore[arg-type]
        timeout_graceful_shutdown=settings.shutdown_seconds + SLACK,  # type: ignore[arg-type]
    )
    return Server(config, engine, settings.shutdown_seconds, ready)
