"""The page's server, asked as programs and other people's pages ask it."""

import json
import threading

import pytest
from starlette.testclient import TestClient

from src.page.answers import Answers, Limits
from src.page.server import FILES, PageServer
from tests.conftest import greedy

PATIENCE = 60  # seconds, on a busy machine


class SlowAnswers:
    """Answers that wait for ``go``, to hold the server's turn."""

    limits = Limits(100, 60.0, 1)

    def __init__(self):
        self.go = threading.Event()
        self.started = threading.Event()

    def events(self, question):
        self.started.set()
        self.go.wait(PATIENCE)
        yield {"answer": 0, "piece": "", "status": "", "end": True}


QUESTION = {"answers": [{"model": "m", "messages": [{"role": "user", "content": "hi"}]}]}


@pytest.fixture
def client(models, folders, ranker) -> TestClient:
    answers = Answers(models, {name: name for name in folders}, greedy(8), Limits(100, 60.0, 4))
    server = PageServer(answers, ranker, {"prompts": ["<b>"]}, "localhost")
    return TestClient(server.config.app, base_url="http://localhost:7860")


def test_the_page_is_served_and_may_ask_nobody_else(client):
    for path in ("/", *(f"/{each.name}" for each in FILES.iterdir())):
        if path == "/page.html":
            continue
        answer = client.get(path)
        assert answer.status_code == 200, path
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert client.get("/").headers["content-type"].startswith("text/html")
    assert client.get("/page.js").headers["content-type"].startswith("text/javascript")
    assert client.get("/options").json() == {"prompts": ["<b>"]}


@pytest.mark.parametrize("path", ["/monitoring", "/gradio_api/info", "/../server.py", "/docs"])
def test_nothing_else_is_served(client, path):
    assert client.get(path).status_code == 404


def test_events_are_lines_of_json(client, folders):
    question = json.loads(json.dumps(QUESTION).replace('"m"', json.dumps(folders[0])))
    lines = client.post("/answers", json=question).text.splitlines()
    assert json.loads(lines[-1])["end"]
    assert "".join(json.loads(line)["piece"] for line in lines)


@pytest.mark.parametrize(
    ("headers", "body", "status", "message"),
    [
        ({"Content-Type": "text/plain"}, json.dumps(QUESTION), 415, "a question is JSON"),
        ({"Content-Type": "application/json"}, "{", 400, "the request: no JSON"),
        ({"Content-Type": "application/json"}, "x" * 2**25, 413, "begin a new one"),
        ({"Content-Type": "application/json", "Host": "evil.example"}, "", 403, "evil.example"),
        ({"Content-Type": "application/json", "Host": "[::1"}, "", 403, "there is no "),
    ],
)
def test_a_request_that_is_not_the_pages_is_refused(client, headers, body, status, message):
    answer = client.post("/answers", content=body, headers=headers)
    assert answer.status_code == status
    assert message in answer.json()["error"]


def test_a_ranking_is_served_and_its_mistakes_are_one_line(client, tmp_path):
    shown = client.post("/ranking", json={"action": "show"}).json()
    move = {"action": "rank", "id": shown["id"], "ranks": [1] * len(shown["question"]["replies"])}
    assert client.post("/ranking", json=move).json()["id"] != shown["id"]
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 1
    for body, message in (
        ({"action": "delete"}, "action: "),
        ({"action": "rank", "ranks": ["1"]}, "ranks.0: "),
        ({"action": "show", "output": "/etc/passwd"}, "output: "),
    ):
        answer = client.post("/ranking", json=body)
        assert (answer.status_code, answer.json()["error"][: len(message)]) == (400, message)
    assert client.post("/ranking", content="{}").status_code == 415
    assert client.get("/ranking").status_code == 405


@pytest.mark.parametrize("host", ["localhost:7860", "LOCALHOST", "chat.localhost:1"])
def test_the_servers_own_names_are_served(client, host):
    assert client.get("/", headers={"Host": host}).status_code == 200


def test_questions_wait_for_their_turn_and_only_so_many(ranker):
    answers = SlowAnswers()
    server = PageServer(answers, ranker, {}, None)
    with TestClient(server.config.app) as client:

        def post(texts: list[str]) -> None:
            texts.append(client.post("/answers", json=QUESTION).text)

        first: list[str] = []
        second: list[str] = []
        threads = [threading.Thread(target=post, args=(texts,)) for texts in (first, second)]
        threads[0].start()
        assert answers.started.wait(PATIENCE)
        threads[1].start()
        while server.num_waiting < 1:
            threads[1].join(0.01)
        refused = client.post("/answers", json=QUESTION)
        answers.go.set()
        for thread in threads:
            thread.join(PATIENCE)
    assert refused.status_code == 503
    assert "too many questions wait (1): ask later" in refused.text
    assert "it waits: 1 before it" in second[0]
    assert "waits" not in first[0]
