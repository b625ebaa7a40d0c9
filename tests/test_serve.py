"""The door: says where it listens, answers, ends in good order; a mistake is one line, code 2."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import psutil
import pytest
from hydra.core.global_hydra import GlobalHydra

from src import serve
from src.command.cli import run_door
from src.talk.model_folder import save_model_folder
from tests.conftest import greedy
from tests.serving.conftest import ask, tiny_assistant

ROOT = Path(__file__).parents[1]
TIMEOUT = 120  # seconds, on a busy machine


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    assistant = tiny_assistant()
    path = tmp_path_factory.mktemp("serve") / "model"
    save_model_folder(path, assistant.model, assistant.tokenizer, greedy(8))
    return path


@contextmanager
def served(folder: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen, list[str]]]:
    """Start the door at a free port; yield it, and the lines it said when it was ready."""
    command = [sys.executable, "-m", "src.serve", f"model_path={folder}", "port=0", *arguments]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process, [process.stderr.readline(), process.stderr.readline()]
    finally:
        process.kill()
        process.communicate()


def post(url: str, body: bytes) -> dict:
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, body, headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        return json.load(answer)


def end(process: subprocess.Popen, number: int) -> tuple[int, str, str]:
    """Send a signal; return exit code, standard output and the rest of standard error."""
    process.send_signal(number)
    out, err = process.communicate(timeout=TIMEOUT)
    return process.returncode, out, err


def test_it_says_where_it_listens_and_how_to_ask(folder):
    with served(folder, "model_name='a name'") as (process, (where, example)):
        assert str(folder) in where
        url, name = re.search(r"answers at (\S+) as model (.*);", where).groups()
        assert (re.match(r"http://127\.0\.0\.1:\d+/v1$", url) is not None, name) == (True, "a name")
        curl, to, _, kind, _, body = shlex.split(example)
        assert (curl, kind) == ("curl", "Content-Type: application/json")
        answer = post(to, body.encode())
        assert answer["choices"][0]["message"]["content"]
        assert answer["model"] == "a name"
        code, out, err = end(process, signal.SIGTERM)
        assert (code, out) == (0, "")
        usage = answer["usage"]
        tokens = f"{usage['prompt_tokens']} \\+ {usage['completion_tokens']} tokens"
        line = (
            rf"\d\d:\d\d:\d\d POST /v1/chat/completions 200 {answer['id']}: {tokens}, \d+\.\d\d s\n"
        )
        assert re.fullmatch(line, err)


def test_a_key_names_and_pages_are_set_on_the_command_line(folder):
    arguments = (
        "api_key=1729",
        "allow_origins=http://a.example,http://b.example",
        "allowed_hosts=[a]",
    )
    with served(folder, *arguments) as (process, (where, example)):
        port = re.search(r":(\d+)/v1", where)[1]
        assert "Authorization: Bearer" in example
        assert "1729" not in example
        request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/models")
        request.add_header("Host", f"a:{port}")
        request.add_header("Authorization", "Bearer 1729")
        request.add_header("Origin", "http://b.example")
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            assert answer.headers["Access-Control-Allow-Origin"] == "http://b.example"
        request.remove_header("Authorization")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(request, timeout=TIMEOUT)
        assert end(process, signal.SIGTERM)[0] == 0


@pytest.mark.slow
def test_ctrl_c_lets_running_answers_end(folder):
    arguments = ("generation.max_new_tokens=100", f"shutdown_seconds={TIMEOUT}")
    with served(folder, *arguments) as (process, (where, _)):
        url = re.search(r"answers at (\S+) ", where)[1] + "/chat/completions"
        options = {"stream": True, "stream_options": {"include_usage": True}}
        body = json.dumps(ask(**options) | {"model": "gpt2-chat"}).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(url, body, headers)
        answers = [urllib.request.urlopen(request, timeout=TIMEOUT) for _ in "abcd"]
        for answer in answers:
            assert answer.readline().startswith(b"data: ")  # it has begun
        process.send_signal(signal.SIGINT)
        for answer in answers:
            *_, usage, done = [line for line in answer.read().splitlines() if line]
            assert done == b"data: [DONE]"
            tokens = json.loads(usage.removeprefix(b"data: "))["usage"]["completion_tokens"]
            assert tokens == 100
        out, err = process.communicate(timeout=TIMEOUT)
        assert (process.returncode, out) == (130, "")
        assert err.count("\n") == err.count("POST /v1/chat/completions 200") == 4


@pytest.fixture
def mistake(monkeypatch, tmp_path, capsys):
    """Run the door, to be refused: return its line."""

    def run(*arguments: str) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["serve", *arguments])
        before = signal.getsignal(signal.SIGTERM)
        GlobalHydra.instance().clear()
        with pytest.raises(SystemExit) as stop:
            run_door(serve.serve, "serve", free_text=(*serve.FREE_TEXT, *serve.LISTS))
        signal.signal(signal.SIGTERM, before)
        out, err = capsys.readouterr()
        assert (stop.value.code, out) == (2, "")
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        return err

    return run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["port=70000"], "port=70000: must be from 1 to 65535"),
        (["port=http"], "port: Value 'http'"),
        (["host=192.0.2.1", "port=0"], "host=192.0.2.1 port=0: cannot listen there"),
        (["num_slots=0"], "num_slots=0: must be at least 1"),
        (["max_seconds=0"], "max_seconds=0.0: must be above 0"),
        (["receive_seconds=nan"], "receive_seconds=nan: must be above 0"),
        (["model_name="], "model_name is empty"),
        (["api_key="], "api_key must be of visible ASCII characters"),
        (["api_key=a b"], "api_key must be of visible ASCII characters"),
        (["allow_origins=http://a.example/page"], "an origin is like http://localhost:3000"),
        (["allow_origins=localhost"], "allow_origins=localhost: an origin is like"),
        (["allowed_hosts=a.example:80"], "allowed_hosts=a.example:80: must be a name"),
        (["generation.top_p=2"], "top_p=2.0: must be in (0, 1]"),
        (["generation=lucky"], "there is no preset generation=lucky"),
        (["port=0"], "no trained model"),
        (["port=0", "model_path=./nowhere"], "model_path=./nowhere: there is no such folder"),
        (["ports=1"], "there is no key ports"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(arguments, message, mistake):
    assert message in mistake(*arguments)


def test_a_port_in_use_is_named_before_the_model_is_loaded(mistake):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = mistake(f"port={port}", "model_path=./nowhere")
    assert f"port={port}: cannot listen there: Address already in use; choose another" in line


@contextmanager
def imported_anew(package: str) -> Iterator[None]:
    """Import the modules of a package once more meanwhile; those of other tests come back."""
    attributes = vars(sys.modules[package])

    def modules() -> dict[str, ModuleType]:
        return {k: module for k, module in sys.modules.items() if k.startswith(f"{package}.")}

    modules_before, attributes_before = modules(), dict(attributes)
    for name in modules_before:
        del sys.modules[name]
    try:
        yield
    finally:
        for name in modules():
            del sys.modules[name]
        sys.modules.update(modules_before)
        attributes.clear()
        attributes.update(attributes_before)


@pytest.mark.parametrize("missing", ["fastapi", "uvicorn"])
def test_without_the_extra_it_says_what_to_install(missing, mistake, monkeypatch):
    with imported_anew("src.serving"):
        monkeypatch.setitem(sys.modules, missing, None)
        assert f"needs {missing}" in (line := mistake("port=0"))
        assert "pip install 'gpt2-chat[web]'" in line


@pytest.mark.slow
def test_memory_stays_bounded_whatever_is_sent(folder):
    """Twenty clients at a time, each with ten megabytes, and 200 connections."""
    with served(folder, f"receive_seconds={TIMEOUT}") as (process, (where, _)):
        port = int(re.search(r":(\d+)/v1", where)[1])
        memory = psutil.Process(process.pid).memory_info
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
            "Content-Type: application/json\r\nContent-Length: 10000000\r\n\r\n"
        )

        def send() -> bytes:
            with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as connection:
                connection.sendall(head.encode() + b"[" * 10_000_000)
                return connection.recv(12)

        def at_once(count: int) -> list[bytes]:
            answers: list[bytes] = []
            threads = [
                threading.Thread(target=lambda: answers.append(send())) for _ in range(count)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return answers

        at_once(2)
        before = memory().rss
        assert at_once(20) == [b"HTTP/1.1 413"] * 20
        idle = [socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) for _ in range(200)]
        assert memory().rss - before < 64 * 2**20
        for connection in idle:
            connection.close()
        code, out, log = end(process, signal.SIGTERM)
        assert (code, out) == (0, "")
        assert all(" POST /v1/chat/completions 413 req-" in line for line in log.splitlines())
