"""OpenAI's own Python package talks to our server, and to ``transformers serve`` on our folder."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import openai
import pytest

from tests.serving.conftest import PATIENCE, running_server, serve_config

HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def server(assistant):
    with running_server(assistant) as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    with client_of(server.url) as client:
        yield client


def client_of(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=180)


def reply_to(text: str, assistant) -> str:
    return assistant.replies([text], serve_config().generation)[0]


def test_a_chat_whole_and_streamed(client, assistant):
    expected = reply_to("Hello", assistant)
    whole = client.chat.completions.create(model="tiny", messages=HELLO)
    assert whole.choices[0].message.content == expected
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage.completion_tokens == 24
    chunks = list(client.chat.completions.create(model="tiny", messages=HELLO, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected
    assert [chunk.choices[0].finish_reason for chunk in chunks[-2:]] == [None, "length"]
    assert all(chunk.usage is None for chunk in chunks)
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_ends_with_the_usage_if_it_is_asked_for(client):
    chunks = list(
        client.chat.completions.create(
            model="tiny", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
    )
    whole = client.chat.completions.create(model="tiny", messages=HELLO)
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_several_answers_stream_side_by_side(client):
    settings = {"model": "tiny", "messages": HELLO, "n": 3, "temperature": 1.5, "seed": 5}
    texts = ["", "", ""]
    for chunk in client.chat.completions.create(**settings, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    whole = client.chat.completions.create(**settings)
    assert texts == [choice.message.content for choice in whole.choices]
    assert len(set(texts)) == 3


def test_completions_whole_and_streamed(client):
    settings = {"model": "tiny", "prompt": ["Hello", "1 2"], "max_tokens": 9, "stop": ["zz"]}
    whole = client.completions.create(**settings)
    texts = ["", ""]
    for chunk in client.completions.create(**settings, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [choice.text for choice in whole.choices]
    assert whole.usage.completion_tokens == 18


def test_our_two_settings_of_vllms_go_through_extra_body(client, assistant):
    answer = client.chat.completions.create(
        model="tiny",
        messages=HELLO,
        temperature=1.5,
        extra_body={"top_k": 1, "repetition_penalty": 1.0},
    )
    assert answer.choices[0].message.content == reply_to("Hello", assistant)


def test_the_models(client):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"


def test_refusals_are_the_packages_own_exceptions(client, server):
    create = client.chat.completions.create
    with pytest.raises(openai.BadRequestError, match="top_p") as error:
        create(model="tiny", messages=HELLO, top_p=2)
    assert (error.value.param, error.value.type) == ("top_p", "invalid_request_error")
    with pytest.raises(openai.BadRequestError, match="tools"):
        create(model="tiny", messages=HELLO, tools=[{"type": "function", "function": {}}])
    with pytest.raises(openai.NotFoundError, match="there is no model") as error:
        create(model="gpt-4", messages=HELLO)
    assert error.value.code == "model_not_found"


def test_an_error_amid_a_stream_is_an_exception(assistant):
    with running_server(assistant, max_seconds=0.2) as running:
        running.engine.decoder.gate.clear()
        with client_of(running.url) as client:
            stream = client.chat.completions.create(model="tiny", messages=HELLO, stream=True)
            with pytest.raises(openai.APIError, match=r"took longer than 0\.2 seconds"):
                list(stream)


@pytest.mark.slow
def test_the_same_client_asks_transformers_serve_and_hears_the_same(quickstart_run, tmp_path):
    from src.talk.assistant import Assistant
    from src.talk.model_folder import load_model_folder

    folder = quickstart_run / "model"
    assistant = Assistant(*load_model_folder(str(folder)))
    questions = ["What is 3 + 4?", "Who are you?", "What is the opposite of hot?"]
    expected = [reply_to(question, assistant) for question in questions]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(folder)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    theirs = subprocess.Popen(
        [*command, "--port", str(port), "--device", "cpu", "--dtype", "float32"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with (
            running_server(assistant) as ours,
            client_of(ours.url) as our_client,
            client_of(f"http://127.0.0.1:{port}") as their_client,
        ):
            _wait_for(port, theirs)
            for client, model in ((our_client, "tiny"), (their_client, str(folder))):
                for question, reply in zip(questions, expected, strict=True):
                    assert _said(client, model, question, stream=False) == reply
                    assert _said(client, model, question, stream=True) == reply
    finally:
        theirs.terminate()
        theirs.wait(PATIENCE)


def _said(client: openai.OpenAI, model: str, question: str, stream: bool) -> str:
    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": question}],
        temperature=0,
        max_tokens=24,
        stream=stream,
    )
    if not stream:
        return answer.choices[0].message.content.strip()  # theirs keeps the template's blank
    return "".join(c.choices[0].delta.content or "" for c in answer if c.choices).strip()


def _wait_for(port: int, process: subprocess.Popen) -> None:
    end = time.monotonic() + 300
    while time.monotonic() < end:
        assert process.poll() is None, "transformers serve has ended"
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.5)
    raise AssertionError("transformers serve does not listen")
