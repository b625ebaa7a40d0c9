"""A model behind a URL: asked as OpenAI's API is, and given up in time."""

import json
import socket
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from src.errors import UserError
from src.evaluation import endpoint
from src.evaluation.endpoint import Endpoint
from src.talk.messages import Message
from tests.conftest import greedy


class Server(BaseHTTPRequestHandler):
    asked: list[dict]
    over: threading.Event  # the test is
    mode = "good"

    def do_GET(self):
        if self.mode == "silent":
            self.over.wait()
            return None
        if self.mode == "drip":  # no read of it ever waits long
            self.send_response(200)
            self.end_headers()
            with suppress(OSError):
                while not self.over.wait(0.1):
                    self.wfile.write(b" ")
            return None
        if self.path != "/v1/models":
            return self.reply(404, {"error": {"message": "no such path"}})
        return self.reply(
            200, {"data": [{"id": "their-model"}]} if self.mode != "empty" else {"data": []}
        )

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).asked.append(body | {"key": self.headers.get("Authorization")})
        question = body["messages"][-1]["content"]
        if question == "long":
            return self.reply(400, {"error": {"message": "maximum context length is 64 tokens"}})
        if question == "broken":
            return self.reply(500, {"error": {"message": "no\nluck"}})
        if question == "odd":
            return self.reply(200, {"answer": "?"})
        if (
            question == "busy"
            and sum(a["messages"][-1]["content"] == "busy" for a in self.asked) < 3
        ):
            return self.reply(503, {"error": {"message": "busy"}})
        choice = {"message": {"content": f" {question}! "}, "finish_reason": "length"}
        return self.reply(200, {"choices": [choice], "usage": {"completion_tokens": 7}})

    def reply(self, code, body):
        content = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        with suppress(BrokenPipeError):  # whoever asked has given up
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    class Fresh(Server):
        asked: list[dict] = []  # noqa: RUF012
        over = threading.Event()

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Fresh)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{listening.server_address[1]}/v1", Fresh
    Fresh.over.set()
    listening.shutdown()
    listening.server_close()


@pytest.fixture(autouse=True)
def _asked_itself(monkeypatch) -> None:
    """No proxy of this machine answers for who is asked."""
    monkeypatch.setenv("no_proxy", "*")


def ask(text: str) -> list[Message]:
    return [Message("user", text)]


def test_questions_are_answered_in_their_order(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    url, handler = server
    questions = [ask(f"question {i}") for i in range(20)]
    counted = []
    found = Endpoint(url).answer_all(questions, greedy(9, stop=["x"]), counted.append)
    assert [a.text for a in found] == [f"question {i}!" for i in range(20)]
    assert found[0].stop_reason == "length"
    assert sum(counted) == 20
    asked = handler.asked[0]
    assert asked["model"] == "their-model"
    assert (asked["max_tokens"], asked["temperature"], asked["stop"]) == (9, 0.0, ["x"])
    assert asked["key"] == "Bearer secret"


def test_a_question_that_is_too_long_for_the_server_is_unreadable(server):
    (found,) = Endpoint(server[0]).answer_all([ask("long")], greedy(9))
    assert not found.was_asked


def test_a_busy_server_is_asked_again(server, monkeypatch):
    monkeypatch.setattr(endpoint, "WAITS", (0.01,) * 5)
    (found,) = Endpoint(server[0]).answer_all([ask("busy")], greedy(9))
    assert found.text == "busy!"


@pytest.mark.parametrize(
    ("question", "words"), [("broken", "500"), ("odd", "not of OpenAI's form")]
)
def test_a_server_that_fails_is_one_line(server, question, words):
    with pytest.raises(UserError, match=words) as error:
        Endpoint(server[0]).answer_all([ask("fine"), ask(question)], greedy(9))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:{port}/v1", "http://nobody.invalid/v1", "http://["]
)
def test_nobody_there_is_one_line_at_once(url, monkeypatch):
    find = socket.getaddrinfo

    def find_here(host, *rest, **options):
        if host == "nobody.invalid":  # which no network is asked for
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return find(host, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", find_here)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # and does not listen
        port = free.getsockname()[1]
        with pytest.raises(UserError, match="no OpenAI-compatible server answers there") as error:
            Endpoint(url.format(port=port))
    assert "timed out" not in str(error.value)


@pytest.mark.parametrize("mode", ["silent", "drip"])
def test_a_silent_server_is_given_up_in_time(server, monkeypatch, mode):
    url, handler = server
    handler.mode = mode  # for as long as the test goes on
    monkeypatch.setattr(endpoint, "FIRST_SECONDS", 0.5)
    with pytest.raises(UserError, match=r"no answer|no OpenAI"):
        Endpoint(url)


def test_a_server_without_a_model_is_refused(server):
    url, handler = server
    handler.mode = "empty"
    with pytest.raises(UserError, match="names no model"):
        Endpoint(url)


def test_a_server_named_without_its_path_is_told(server):
    url = server[0].removesuffix("/v1")
    with pytest.raises(UserError, match=f"up to /v1, for example {url}/v1"):
        Endpoint(f"{url}/")
