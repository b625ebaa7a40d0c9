"""The page's door: its mistakes, its address, its end."""

import json
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from src import web
from src.address import bind
from src.errors import UserError
from src.page.models import Models
from src.page.server import PageServer
from src.talk.model_folder import save_model_folder
from tests.conftest import greedy
from tests.model.conftest import random_model, tiny_config

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("port=70000",), "port=70000: must be from 1 to 65535"),
        (("max_seconds=0",), "max_seconds=0.0: must be above 0"),
        (("max_seconds=nan",), "max_seconds=nan: must be above 0"),
        (("max_seconds=inf",), "max_seconds=inf: must be above 0"),
        (("max_queue=0",), "max_queue=0: must be at least 1"),
        (("rank.num_replies=1",), "rank.num_replies=1: must be at least 2"),
        (("generation@rank.generation=greedy",), "add generation@rank.generation=full"),
        (("rank.output=.",), "rank.output=.: name a file"),
        (("rank.output=/",), "rank.output=/: name a file"),
        (("rank.output=",), "rank.output=: name a file"),
        (("rank.output=..",), "rank.output=..: cannot be read: it is a folder"),
        (("data.max_rows=0",), "data.max_rows=0: must be at least 1"),
        (("data.max_rows=some",), "data.max_rows: Value 'some' of type"),
        (("host=nowhere.invalid",), "host=nowhere.invalid port=7860: "),
        (("model_path=/nowhere", "port=0"), "model_path=/nowhere: there is no such folder"),
        (("port=0",), "no trained model in outputs/train"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_served(door, arguments, message):
    code, _, err = door(web.web, "web", *arguments, free_text=("model_path", "compare_with"))
    assert code == 2
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


def test_rankings_that_somebody_asks_for_are_looked_at_at_once(door, tmp_path):
    (tmp_path / "mine.json").write_text('{"theme": "dark"}')
    code, _, err = door(web.web, "web", "rank.output=mine.json")
    assert code == 2
    assert err == "error: rank.output=mine.json, line 1: it holds other rows; name a new file\n"
    (tmp_path / "comparisons.jsonl").write_text('{"chosen": "a", "rejected": "b"}\n')
    _, _, err = door(web.web, "web", "port=0")
    assert "no trained model" in err  # who came to chat needs no other file


def test_a_port_that_is_taken_is_named(door):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, _, err = door(web.web, "web", f"port={port}")
    assert (code, err.count("\n")) == (2, 1)
    assert f"port={port}: cannot listen there: Address already in use; choose another" in err


def save_tiny_model(folder: Path, tokenizer, seed: int = 0, **shape: int) -> None:
    config = tiny_config(vocab_size=tokenizer.vocab_size, **shape)
    save_model_folder(folder, random_model(config, seed), tokenizer, greedy(8))


def test_nobody_takes_the_port_while_the_models_are_loaded(door, tokenizer, tmp_path, monkeypatch):
    save_tiny_model(tmp_path / "model", tokenizer)
    taken = []

    def bind_once(host: str, port: int) -> socket.socket:
        taken.append(bind(host, port))
        return taken[0]

    def get(self, name: str) -> None:
        port = taken[0].getsockname()[1]
        with pytest.raises(UserError, match="Address already in use"), bind("127.0.0.1", port):
            pass
        raise UserError("seen")

    monkeypatch.setattr(web, "bind", bind_once)
    monkeypatch.setattr(Models, "get", get)
    own = ("port=0", f"model_path={tmp_path / 'model'}")
    code, _, err = door(web.web, "web", *own, free_text=("model_path",))
    assert (code, err) == (2, "error: seen\n")


def test_ipv6_is_served(door, tokenizer, tmp_path, monkeypatch):
    save_tiny_model(tmp_path / "model", tokenizer)
    monkeypatch.setattr(PageServer, "run", lambda self, sockets: None)
    own = ("host='::1'", "port=0", f"model_path={tmp_path / 'model'}")
    _, out, err = door(web.web, "web", *own, free_text=("model_path",))
    if "cannot listen" in err:
        pytest.skip("no IPv6 on this machine")
    assert re.search(r"answers at http://\[::1\]:\d+ ", out)


def test_the_same_folder_twice_is_one_model(door, tokenizer, tmp_path, monkeypatch):
    save_tiny_model(tmp_path / "mine" / "model", tokenizer)
    options = []
    monkeypatch.setattr(PageServer, "run", lambda self, sockets: options.append(self.options))
    own = ("port=0", f"model_path={tmp_path}/mine/model", "compare_with=mine/../mine/model")
    door(web.web, "web", *own, free_text=("model_path", "compare_with"))
    assert options[0]["models"] == [{"name": f"{tmp_path}/mine/model", "label": "mine"}]
    assert options[0]["chosen"] == [f"{tmp_path}/mine/model"] * 2


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_in_good_order_while_it_answers(tokenizer, tmp_path, number, code):
    """The answer would have thousands of tokens: it is not over when the signal comes."""
    save_tiny_model(tmp_path / "model", tokenizer, seed=1, n_positions=16_384, n_layer=16)
    command = [sys.executable, "-m", "src.web", "port=0", "generation.max_new_tokens=16000"]
    server = subprocess.Popen(
        [*command, f"model_path={tmp_path / 'model'}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        address = re.search(r"http://\S+", server.stdout.readline())[0]
        said = [{"role": "user", "content": "hi"}]
        name = httpx.get(f"{address}/options", timeout=60).json()["chosen"][0]
        question = {"answers": [{"model": name, "messages": said}]}
        with httpx.stream("POST", f"{address}/answers", json=question, timeout=60) as answer:
            lines = answer.iter_lines()
            events = [next(lines)]
            server.send_signal(number)
            events += lines
            assert not json.loads(events[-1])["end"]
        assert server.wait(60) == code
        assert server.stderr.read() == ""
    finally:
        server.kill()
        server.wait()
