"""Who may ask: names of the server, a key, pages of other sites; and the line that is left."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from fastapi.testclient import TestClient

from src.serving import request_log
from src.serving.access import allows_host
from src.serving.app import create_app
from tests.serving.conftest import CHAT, HOST, ask, running_engine, serve_config

SECRET = "What a secret this is"


@contextmanager
def asked(assistant, **changes) -> Iterator[TestClient]:
    with running_engine(assistant, 4, 64) as engine:
        app = create_app(assistant, engine, serve_config(**changes))
        with TestClient(app, HOST, raise_server_exceptions=False) as client:
            yield client


@pytest.mark.parametrize(
    "name",
    ["127.0.0.1:8000", "localhost", "LOCALHOST.:8000", "a.localhost:1", "[::1]:8000", "127.9.9.9"],
)
def test_a_server_of_this_machine_answers_to_its_names(name):
    assert allows_host(serve_config(), name)


@pytest.mark.parametrize(
    "name",
    [
        "evil.example",
        "evil.example:8000",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "192.168.1.9:8000",
        "[::2]:8000",
        "evil.example@localhost.evil.example",
        "[bad",
    ],
)
def test_a_page_that_rebinds_its_name_to_this_machine_is_refused(name, client):
    assert not allows_host(serve_config(), name)
    assert not allows_host(serve_config(host="localhost"), name)
    answer = client.post(CHAT, json=ask(), headers={"Host": name})
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "host_not_allowed"
    assert "allowed_hosts=" in answer.json()["error"]["message"]


def test_names_can_be_allowed_and_an_open_server_has_any():
    listed = serve_config(allowed_hosts=["api.example", "*.lan", "10.0.0.1", "[fd00::1]"])
    for name in ("api.example:8000", "API.example", "a.b.lan", "10.0.0.1:80", "[fd00:0::1]:80"):
        assert allows_host(listed, name)
    for name in ("evil.example", "lan", "localhost", "127.0.0.1"):
        assert not allows_host(listed, name)
    assert allows_host(serve_config(allowed_hosts=["*"]), "evil.example")
    assert allows_host(serve_config(host="0.0.0.0"), "api.example")
    assert not allows_host(serve_config(host="0.0.0.0", allowed_hosts=["a"]), "b")


def test_without_the_key_nobody_is_answered(assistant):
    with asked(assistant, api_key="sk-1") as client:
        for headers in ({}, {"Authorization": "Bearer sk-2"}, {"Authorization": "Basic sk-1"}):
            for answer in (
                client.post(CHAT, json=ask(), headers=headers),
                client.get("/v1/models", headers=headers),
            ):
                assert answer.status_code == 401
                assert answer.headers["www-authenticate"] == "Bearer"
                assert answer.json()["error"]["code"] == "invalid_api_key"
        right = {"Authorization": "bearer sk-1"}
        assert client.post(CHAT, json=ask(), headers=right).status_code == 200
        assert client.get("/health").status_code == 200


def test_pages_that_are_allowed_may_ask_and_read_refusals(assistant):
    page = "http://localhost:3000"
    with asked(assistant, allow_origins=[page], api_key="sk-1") as client:
        asks_first = {"Origin": page, "Access-Control-Request-Method": "POST"}
        asks_first["Access-Control-Request-Headers"] = "authorization,content-type"
        allowed = client.options(CHAT, headers=asks_first)
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == page
        assert "authorization" in allowed.headers["access-control-allow-headers"].lower()
        refused = client.post(CHAT, json=ask(), headers={"Origin": page})
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == page
        too_large = client.post(CHAT, json=ask("x" * 10**6), headers={"Origin": page})
        assert too_large.status_code == 413
        assert too_large.headers["access-control-allow-origin"] == page
        asks_first["Origin"] = other = "http://else.where"
        assert client.options(CHAT, headers=asks_first).status_code == 400
        answer = client.post(CHAT, json=ask(), headers={"Origin": other})
        assert "access-control-allow-origin" not in answer.headers
    with asked(assistant, allow_origins=["*"]) as client:
        answer = client.post(CHAT, json=ask(), headers={"Origin": "null"})
        assert answer.headers["access-control-allow-origin"] == "*"


def test_a_request_leaves_one_line_with_its_tokens_and_without_its_text(client, caplog):
    caplog.set_level(logging.INFO, "src.serving")
    answer = client.post(CHAT, json=ask(SECRET))
    name, usage = answer.headers["x-request-id"], answer.json()["usage"]
    assert name == answer.json()["id"]
    tokens = f"{usage['prompt_tokens']} + {usage['completion_tokens']} tokens"
    stream = client.post(CHAT, json=ask(SECRET, stream=True))
    refused = client.post(CHAT, json=ask(SECRET, tools=[{"name": SECRET}]))
    client.post(CHAT, json=[SECRET])
    client.get("/nothing%1b[31m")
    client.get("/health")
    records = [record for record in caplog.records if record.name == request_log.log.name]
    lines = [record.getMessage() for record in records]
    assert len(lines) == 5
    assert f"POST {CHAT} 200 {name}: {tokens}, " in lines[0]
    assert all(re.search(r", \d+\.\d\d s$", line) for line in lines[:3])
    assert f" 200 {stream.headers['x-request-id']}: {tokens}, " in lines[1]
    assert " 400 req-" in lines[2]
    assert ": tools unsupported_parameter, " in lines[2]
    assert refused.headers["x-request-id"] in lines[2]
    assert " 400 req-" in lines[3]
    assert SECRET not in "".join(lines[:4])
    assert "\x1b" not in lines[4]


def test_a_field_without_effect_is_named_once(assistant, caplog):
    caplog.set_level(logging.INFO, "src.serving.app")
    with asked(assistant) as client:
        for _ in range(2):
            fields = {"store": True, "metadata": {"a": 1}, "min_p": 0, "user": None, "a\n": 1}
            body = ask(**fields, stream=True, stream_options={"more": 1})
            body["messages"][0] |= {"name": SECRET, "refusal": None}
            assert client.post(CHAT, json=body).status_code == 200
        client.post(CHAT, json=ask(tools=[], store=False))
        many = {f"field{number}" + "x" * 100: 1 for number in range(1000)}
        assert client.post(CHAT, json=ask(**many)).status_code == 200
    lines = [r.getMessage() for r in caplog.records if "without effect" in r.getMessage()]
    assert len(lines) == 5
    assert lines[0].endswith(": store, metadata, a\\n")
    assert lines[1].endswith(": stream_options.more")
    assert lines[2].endswith(": message key name")
    assert lines[3].endswith(": tools")
    assert len(lines[4]) < 256 * 70
