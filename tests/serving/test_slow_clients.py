"""Nobody holds a connection of the server for long: clients that are slow to ask or to read."""

import socket
import time

import httpx
import pytest

from tests.serving.conftest import PATIENCE, ask, running_server, serve_config, wait_until
from tests.serving.test_server import PLAIN, answers_as_before, connect, read_all, request


@pytest.mark.parametrize(
    "start",
    [b"", b"POST /v1/chat/comp", b"GET /health HTTP/1.1\r\nX: "],
    ids=["nothing", "a word", "an endless header"],
)
def test_a_client_that_dawdles_over_a_request_is_dropped(start, assistant):
    with running_server(assistant) as running:
        running.limit(receive_seconds=0.5)
        with connect(running) as slow:
            slow.sendall(start)
            assert not start or is_cut_off_dripping(slow)  # a byte now and then does not help
            assert read_all(slow) == b""
        running.limit(receive_seconds=PATIENCE)
        assert answers_as_before(running, assistant)


def is_cut_off_dripping(connection: socket.socket) -> bool:
    """Send a byte now and then, for less time than an exchange may last."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            connection.sendall(b"a")
        except OSError:
            return True
        time.sleep(0.1)
    return False


def test_a_second_request_has_no_more_time_than_the_first(assistant):
    with running_server(assistant) as running, connect(running) as slow:
        slow.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert slow.recv(15) == b"HTTP/1.1 200 OK"
        running.limit(receive_seconds=0.5)
        slow.sendall(b"GET /hea")
        assert b"HTTP/1.1" not in read_all(slow)  # which waits less than an exchange may last


def test_a_body_that_does_not_come_is_408(assistant):
    with running_server(assistant, receive_seconds=0.5) as running:
        running.limit(receive_seconds=PATIENCE)  # for a head; a body has what it was
        with connect(running) as slow:
            slow.sendall(request(ask(), length=5000))
            head, _, body = read_all(slow).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 408 ")
        assert b"did not arrive within 0.5 seconds" in body
        assert answers_as_before(running, assistant)


def test_a_connection_serves_one_request_after_the_other(assistant):
    with (
        running_server(assistant) as running,
        httpx.Client(base_url=running.url, timeout=PATIENCE, **PLAIN) as client,
    ):
        assert client.get("/health").status_code == 200
        connections = running.server.server_state.connections
        (connection,) = connections
        for _ in range(6):
            timer = connection.timer
            assert client.get("/health").status_code == 200
            assert timer.cancelled()  # the timer of one request is not the next one's
        assert connections == {connection}
        assert connection.timeout_keep_alive == serve_config().receive_seconds / 2
        connection.timeout_keep_alive = 0.2
        assert client.get("/health").status_code == 200
        wait_until(lambda: not connections)


def test_a_client_that_does_not_read_is_dropped(assistant):
    """However its answer ends: nobody holds a connection for longer than an exchange may last."""
    with running_server(assistant) as running, connect(running) as slow:
        running.limit(exchange_seconds=2.0)
        running.engine.decoder.gate.clear()
        slow.sendall(request(ask(max_tokens=100)))
        wait_until(lambda: running.engine.decoder.num_joined == 1)
        assert read_all(slow) == b""
        wait_until(lambda: running.engine.num_running == 0)
