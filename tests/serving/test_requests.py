"""What the API refuses: 4xx in OpenAI's shape, and the next answer as if nothing had been."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError

from src.data.template import encode_prompt
from src.serving.app import create_app
from src.serving.errors import ApiError
from src.serving.prompts import answer_settings
from src.serving.requests import ChatRequest
from tests.conftest import greedy
from tests.serving.conftest import CHAT, HOST, TEXT, ask, running_engine, serve_config, wait_until

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def expected(assistant):
    return assistant.replies(["Hello"], greedy(8))[0]


@pytest.fixture(autouse=True)
def the_next_answer_is_bit_identical(client, expected):
    yield
    answer = client.post(CHAT, json=ask("Hello", max_tokens=8))
    assert answer.json()["choices"][0]["message"]["content"] == expected
    assert client.get("/health").json() == {"status": "ok", "running": 0, "waiting": 0}


def refused(response, status: int = 400) -> dict[str, str]:
    """Return the error of a refusal."""
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"}
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "\n" not in error["message"]
    assert len(error["message"]) < 450
    return error


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.01}, "top_p"),
        ({"top_p": -0.5}, "top_p"),
        ({"top_p": "0.9"}, "top_p"),
        ({"top_p": float("nan")}, "top_p"),
        ({"min_p": -0.1}, "min_p"),
        ({"min_p": 1.01}, "min_p"),
        ({"min_p": "0.1"}, "min_p"),
        ({"min_p": float("nan")}, "min_p"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": 1e-320}, "temperature"),
        ({"temperature": 9e-5}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_completion_tokens"),
        ({"top_k": -2}, "top_k"),
        ({"top_k": 1.0}, "top_k"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"repetition_penalty": 1e-300}, "repetition_penalty"),
        ({"repetition_penalty": 101}, "repetition_penalty"),
        ({"repetition_penalty": float("nan")}, "repetition_penalty"),
        ({"repetition_penalty": float("inf")}, "repetition_penalty"),
        ({"seed": 2**63}, "seed"),
        ({"seed": "1"}, "seed"),
        ({"n": 0}, "n"),
        ({"n": 5}, "n"),
        ({"n": True}, "n"),
        ({"max_tokens": -2}, "max_tokens"),
        ({"stop": ["x"] * 65}, "stop"),
        ({"stop": [1]}, "stop.0"),
        ({"stop": {"a": 1}}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"messages": []}, "messages"),
        ({"messages": "Hello"}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages"),
        ({"messages": ["Hello"]}, "messages.0"),
        ({"messages": [{"role": "user", "content": None}]}, "messages"),
        ({"messages": [{"role": "king", "content": "a"}]}, "messages"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "messages"),
        ({"messages": [{"role": "user", "content": " \n"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages"),
        ({"model": 1}, "model"),
        ({"model": "\udfff"}, "model"),
        ({"stop": "\ud800"}, "stop.0"),
        ({"messages": [{"role": "user", "content": "a \ud800"}]}, "messages"),
    ],
    ids=lambda value: ascii(value)[:60],
)
def test_a_wrong_value_is_named(fields, param, client):
    body = json.dumps(ask() | fields)
    assert refused(client.post(CHAT, content=body, headers=JSON))["param"] == param


@pytest.mark.parametrize(
    ("tools", "choice"), [("tools", "tool_choice"), ("functions", "function_call")]
)
def test_tools_that_may_not_be_called_change_nothing(tools, choice, client):
    fields = {tools: [{"type": "function", "function": {"name": "f"}}], choice: "none"}
    assert client.post(CHAT, json=ask() | fields).status_code == 200


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "function"}]},
        {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "auto"},
        {"tool_choice": "required"},
        {"tool_choice": {"type": "function", "function": {"name": "f"}}},
        {"functions": [{"name": "f"}]},
        {"logprobs": True},
        {"top_logprobs": 2},
        {"logit_bias": {"5": 100}},
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}},
        {"modalities": ["text", "audio"]},
        {"audio": {"voice": "alloy", "format": "wav"}},
        {"web_search_options": {}},
        {"guided_json": {"type": "object"}},
        {"grammar": "root ::= [0-9]"},
        {"typical_p": 0.1},
        {"mirostat_mode": 2},
        {"dry_multiplier": 0.8},
        {"min_tokens": 5},
    ],
    ids=lambda value: ascii(value)[:60],
)
def test_what_is_not_supported_is_refused_and_not_ignored(fields, client):
    error = refused(client.post(CHAT, content=json.dumps(ask(**fields)), headers=JSON))
    assert error["code"] == "unsupported_parameter"
    assert len(error["param"]) < 450


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": ""},
        {"prompt": []},
        {"prompt": ["a", ""]},
        {"prompt": ["a", [1]]},
        {"prompt": [[]]},
        {"prompt": [-1]},
        {"prompt": [10**6]},
        {"prompt": [1.0]},
        {"prompt": [True]},
        {"prompt": None},
        {"prompt": {"text": "a"}},
        {"prompt": "half \ud800 pair"},
        {"prompt": ["a"] * 69},
        {"prompt": ["a"] * 40, "n": 2},
        {"prompt": "a", "n": 5},
        {"prompt": [7] * 128},
        {"prompt": "a", "echo": True},
        {"prompt": "a", "logprobs": 0},
        {"prompt": "a", "best_of": 2},
        {"prompt": "a", "suffix": "b"},
        {},
    ],
    ids=lambda value: ascii(value)[:60],
)
def test_a_completion_that_cannot_be_is_refused(fields, client):
    body = json.dumps({"model": "tiny", **fields})
    refused(client.post(TEXT, content=body, headers=JSON))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"\xff\xfe\x00",
        b'{"model": "tiny", "messages": ' + b"[" * 100_000,
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        b'{"model": "tiny", "messages": [{"role": "user", "content": "\xf0\x28"}]}',
        b'{"model": "tiny", "\\ud800": 1}',
        b'{"model": "tiny", "n": ' + b"9" * 10_000 + b"}",
        b'{"model": "tiny", "messages": [{"role": "user", "content": "a \\ud800 b"}]}',
    ],
    ids=lambda body: ascii(body[:40]),
)
def test_what_is_no_request_is_refused(body, client):
    refused(client.post(CHAT, content=body, headers=JSON))


def test_a_web_page_cannot_post_without_asking_first(client):
    """A form or a plain-text fetch needs no permission of ours; JSON does, and we give none."""
    body = json.dumps(ask())
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        error = refused(client.post(CHAT, content=body, headers={"Content-Type": kind}))
        assert "application/json" in error["message"]
    answer = client.post(CHAT, content=body, headers=JSON | {"Origin": "http://else.where"})
    assert "access-control-allow-origin" not in answer.headers


def test_other_models_paths_and_methods_are_refused_in_the_same_shape(client):
    error = refused(client.post(CHAT, json=ask() | {"model": "gpt-4"}), 404)
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert "tiny" in error["message"]
    for unnamed in ({"model": "dummy"}, {"model": ""}, {"model": None}):
        assert client.post(CHAT, json=ask() | unnamed).status_code == 200
    refused(client.get("/v1/models/gpt-4"), 404)
    refused(client.get("/v1/nothing"), 404)
    refused(client.get("/docs"), 404)
    refused(client.get(CHAT), 405)


@pytest.mark.parametrize("asked", [121, 4096, 10**400, -1], ids=lambda n: ascii(n)[:9])
@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "n_predict"])
def test_an_answer_is_as_long_as_there_is_room_for(name, asked, client, assistant):
    num_prompt = len(encode_prompt(assistant.tokenizer, "Hello"))
    answer = client.post(CHAT, json=ask("Hello", **{name: asked}))
    assert answer.json()["usage"]["total_tokens"] == 128
    assert answer.json()["usage"]["completion_tokens"] == 128 - num_prompt
    assert answer.json()["choices"][0]["finish_reason"] == "length"


def test_a_question_that_fills_the_model_is_refused(client):
    error = refused(client.post(CHAT, json=ask("Hello " * 200)))
    assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")
    assert "128" in error["message"]


def test_the_size_of_a_request_is_bounded(client):
    assert refused(client.post(CHAT, json=ask("é" * 40_000)))["code"] == "text_too_long"
    longest = refused(client.post(CHAT, json=ask("é" * 32_768)))
    assert longest["code"] == "context_length_exceeded"
    refused(client.post(CHAT, json=ask(stop=["x" * 70_000])))
    refused(client.post(TEXT, json={"model": "tiny", "prompt": ["a" * 40_000] * 2}))
    refused(client.post(CHAT, json=ask("x" * 10_000_000)), 413)
    system = [{"role": "system", "content": "x" * 70_000}, {"role": "user", "content": "a"}]
    refused(client.post(CHAT, json=ask() | {"messages": system}))


def test_of_many_mistakes_only_the_first_is_looked_for():
    with pytest.raises(ValidationError) as wrong:
        ChatRequest.model_validate({"model": "tiny", "messages": [1] * 1000})
    assert wrong.value.error_count() == 1
    with pytest.raises(ValidationError) as wrong:
        ChatRequest.model_validate({**ask(), "stop": [1] * 1000})
    assert wrong.value.error_count() == 1


def test_settings_that_ours_refuse_are_400_whatever_the_request_allowed(assistant):
    asked = ChatRequest.model_construct(**ask(), temperature=-1.0)
    with pytest.raises(ApiError, match=r"temperature=-1\.0: must be 0") as refusal:
        answer_settings(asked, greedy(8), 5, 128)
    assert refusal.value.status == 400


def test_settings_without_a_token_to_draw_do_not_end_the_neighbours_answer(assistant, expected):
    with running_engine(assistant, 4, 64) as engine:
        app = create_app(assistant, engine, serve_config())
        with TestClient(app, HOST) as client, ThreadPoolExecutor(3) as pool:
            engine.decoder.hold_after = 2
            neighbour = pool.submit(client.post, CHAT, json=ask(max_tokens=8))
            wait_until(lambda: not engine.decoder.gate.is_set())
            extreme = ({"temperature": 1e-320}, {"temperature": 1, "repetition_penalty": 1e-300})
            asked = [pool.submit(client.post, CHAT, json=ask(**fields)) for fields in extreme]
            wait_until(lambda: sum(one.done() for one in asked) + engine.num_waiting == 2)
            engine.decoder.gate.set()
            answer = neighbour.result().json()
            assert answer["choices"][0]["message"]["content"] == expected
            assert [one.result().status_code for one in asked] == [400, 400]
