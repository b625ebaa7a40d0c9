"""The server on a real socket: vanishing and greedy clients, many at once, and its end."""

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx
import pytest

from src.serving import server as serving
from tests.serving.conftest import (
    PATIENCE,
    QUESTIONS,
    ask,
    running_server,
    serve_config,
    wait_until,
)

CHAT = "/v1/chat/completions"
PLAIN = {"trust_env": False, "verify": False}  # no proxy; and no certificates, slow to load


@pytest.fixture(scope="module")
def server(assistant):
    with running_server(assistant) as running:
        yield running


def request(body: dict[str, object], length: int | None = None) -> bytes:
    content = json.dumps(body).encode()
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content) if length is None else length}\r\n\r\n"
    )
    return head.encode() + content


def connect(running) -> socket.socket:
    return socket.create_connection(("127.0.0.1", running.port), timeout=PATIENCE)


def read_all(connection: socket.socket) -> bytes:
    """Read until the server closes."""
    data = b""
    try:
        while chunk := connection.recv(65536):
            data += chunk
    except ConnectionResetError:
        pass
    return data


def post(running, **fields) -> httpx.Response:
    return httpx.post(running.url + CHAT, json=ask(**fields), timeout=PATIENCE, **PLAIN)


def content(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["message"]["content"]


def answers_as_before(running, assistant) -> bool:
    with connect(running) as connection:  # head and body at once: some servers give little time
        connection.sendall(request(ask()).replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
        head, _, body = read_all(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n"), head
    reply = json.loads(body)["choices"][0]["message"]["content"]
    return reply == assistant.replies(["Hello"], serve_config().generation)[0]


def test_fifty_at_once_get_the_answers_that_each_gets_alone(server, assistant):
    questions = [f"{QUESTIONS[i % 6]} {i}" for i in range(50)]
    expected = [assistant.replies([q], serve_config().generation)[0] for q in questions]
    server.engine.decoder.gate.clear()
    with ThreadPoolExecutor(50) as pool:
        asked = [pool.submit(post, server, text=question) for question in questions]
        wait_until(lambda: server.engine.num_running + server.engine.num_waiting == 50)
        server.engine.decoder.gate.set()
        got = [content(one.result()) for one in asked]
    assert got == expected
    assert len(set(got)) > 30
    assert server.engine.decoder.most_at_once == 4


def test_a_full_queue_is_429_and_says_when_to_come_back(assistant):
    with running_server(assistant, num_slots=1, max_queue=2) as running:
        running.engine.decoder.gate.clear()
        with ThreadPoolExecutor(3) as pool:
            asked = [pool.submit(post, running) for _ in range(3)]
            wait_until(lambda: running.engine.num_running + running.engine.num_waiting == 3)
            response = post(running, stream=True)
            assert response.status_code == 429
            assert response.headers["retry-after"] == "1"
            assert response.json()["error"]["code"] == "rate_limit_exceeded"
            running.engine.decoder.gate.set()
            assert len({content(one.result()) for one in asked}) == 1
        assert answers_as_before(running, assistant)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_stops_its_answers(stream, server, assistant):
    decoder, engine = server.engine.decoder, server.engine
    decoder.gate.clear()
    before = decoder.num_steps
    with connect(server) as running, connect(server) as waiting:
        running.sendall(request(ask(max_tokens=100, n=4, stream=stream)))
        wait_until(lambda: engine.num_running == 4)
        waiting.sendall(request(ask(max_tokens=100, n=3, stream=stream)))
        wait_until(lambda: engine.num_waiting == 3)
    wait_until(lambda: engine.num_running == engine.num_waiting == 0)
    decoder.gate.set()
    assert answers_as_before(server, assistant)
    assert decoder.num_steps < before + 50  # 24 for the last answer


def test_a_stream_comes_as_it_is_computed(server):
    decoder = server.engine.decoder
    decoder.hold_after = decoder.num_steps + 3
    with (
        httpx.Client(base_url=server.url, timeout=PATIENCE, **PLAIN) as client,
        client.stream("POST", CHAT, json=ask(stream=True)) as response,
    ):
        assert response.headers["content-type"].startswith("text/event-stream")
        events = (line for line in response.iter_lines() if line)
        assert '"role": "assistant"' in next(events)
        assert '"content"' in next(events)  # although the fourth step is held back
        wait_until(lambda: not decoder.gate.is_set())
        assert decoder.num_steps == decoder.hold_after
        decoder.gate.set()
        rest = list(events)
    assert rest[-1] == "data: [DONE]"
    assert len(rest) > 10


@pytest.mark.parametrize("chunked", [False, True])
def test_ten_megabytes_are_refused_and_not_kept(chunked, server, assistant):
    data = json.dumps(ask("x" * 10_000_000)).encode()
    pieces = (data[i : i + 65536] for i in range(0, len(data), 65536))
    headers = {"Content-Type": "application/json"}
    sent = pieces if chunked else data
    response = httpx.post(
        server.url + CHAT, content=sent, headers=headers, timeout=PATIENCE, **PLAIN
    )
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "request_too_large"
    assert answers_as_before(server, assistant)


def test_a_body_without_end_is_cut_off(assistant):
    with running_server(assistant, max_text_kib=1) as running, connect(running) as endless:
        endless.sendall(request({}, length=10**12))
        sent, cut = 0, False
        while sent < 50_000_000 and not cut:
            try:
                sent += endless.send(b"x" * 65536)
            except OSError:
                cut = True
        assert cut
        assert answers_as_before(running, assistant)


def test_more_connections_than_allowed_are_503(assistant):
    with running_server(assistant, max_connections=2) as running:
        idle = [connect(running) for _ in range(2)]
        wait_until(lambda: len(running.server.server_state.connections) == 2)
        response = post(running)
        assert response.status_code == 503
        assert response.headers["retry-after"] == "1"
        assert response.json()["error"]["code"] == "overloaded"
        for one in idle:
            one.close()
        wait_until(lambda: not running.server.server_state.connections)
        assert answers_as_before(running, assistant)


def test_connections_that_ask_nothing_are_bounded_too(assistant):
    with running_server(assistant, max_connections=2, receive_seconds=4.0 * PATIENCE) as running:
        connections = running.server.server_state.connections
        silent = [connect(running) for _ in range(4)]
        wait_until(lambda: len(connections) == 4)
        with connect(running) as fifth:
            assert read_all(fifth) == b""  # long before the time of those before it is over
        wait_until(lambda: len(connections) == 4)
        for one in silent:
            one.close()
        wait_until(lambda: not connections)
        assert answers_as_before(running, assistant)


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_has_a_time_limit(stream, assistant):
    with running_server(assistant, max_seconds=0.3) as running:
        running.engine.decoder.gate.clear()
        response = post(running, stream=stream)
        assert "took longer than 0.3 seconds" in response.text
        assert response.status_code == (200 if stream else 504)
        assert '"server_error"' in response.text
        wait_until(lambda: running.engine.num_running == 0)


@pytest.mark.parametrize(
    "raw",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 9 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: " + b"y" * 200_000 + b"\r\n\r\n",
        b"POST " + CHAT.encode() + b" HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST " + CHAT.encode() + b" HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n"
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=["tls", "long header", "negative length", "no chunk"],
)
def test_what_is_no_http_is_400_or_cut_off(raw, server, assistant):
    with connect(server) as connection:
        with suppress(OSError):  # cut off before it has heard all of it
            connection.sendall(raw)
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 4") or answer == b""
    assert answers_as_before(server, assistant)


def test_a_server_told_to_stop_finishes_what_is_running(assistant):
    with running_server(assistant) as running, ThreadPoolExecutor(1) as pool:
        running.engine.decoder.gate.clear()
        asked = pool.submit(post, running)
        wait_until(lambda: running.engine.num_running == 1)
        running.server.should_exit = True
        wait_until(lambda: not running.server.servers[0].is_serving())
        running.engine.decoder.gate.set()
        assert content(asked.result()) == assistant.replies(["Hello"], serve_config().generation)[0]


def test_a_server_told_to_stop_does_not_wait_for_ever(assistant, monkeypatch):
    monkeypatch.setattr(serving, "SLACK", PATIENCE)  # to send what it says at its end
    with (
        running_server(assistant, shutdown_seconds=0.3) as running,
        ThreadPoolExecutor(2) as pool,
    ):
        running.engine.decoder.gate.clear()
        asked = [pool.submit(post, running, stream=stream) for stream in (False, True)]
        wait_until(lambda: running.engine.num_running + running.engine.num_waiting == 2)
        running.server.should_exit = True
        wait_until(lambda: not running.engine.is_alive)
        running.engine.decoder.gate.set()  # a step that has begun is finished
        plain, streamed = (one.result() for one in asked)
        assert plain.status_code == 503
        assert "the server is stopping" in plain.text
        assert "the server is stopping" in streamed.text
