"""The page as a person uses it: a real server and a real browser."""

import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import httpx
import pytest

from src import web
from src.talk.model_folder import save_model_folder
from tests.conftest import greedy
from tests.model.conftest import random_model, tiny_config

ROOT = Path(__file__).parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SECONDS = 60_000  # milliseconds that anything on the page may take, on a busy machine


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("port=70000",), "port=70000: must be from 1 to 65535"),
        (("max_seconds=0",), "max_seconds=0.0: must be above 0"),
        (("max_seconds=nan",), "max_seconds=nan: must be above 0"),
        (("max_seconds=inf",), "max_seconds=inf: must be above 0"),
        (("max_queue=0",), "max_queue=0: must be at least 1"),
        (("host=nowhere.invalid",), "host=nowhere.invalid port=7860: "),
        (("model_path=/nowhere", "port={port}"), "model_path=/nowhere: there is no such folder"),
        (("port={port}",), "no trained model in outputs/train"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_served(door, arguments, message):
    given = [argument.format(port=free_port()) for argument in arguments]
    code, _, err = door(web.web, "web", *given, free_text=("model_path", "compare_with"))
    assert code == 2
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


def test_a_port_that_is_taken_is_named(door):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, _, err = door(web.web, "web", f"port={port}")
    assert (code, err.count("\n")) == (2, 1)
    assert f"port={port}: cannot listen there: Address already in use; choose another" in err


def save_tiny_model(folder: Path, tokenizer) -> None:
    config = tiny_config(vocab_size=tokenizer.vocab_size)
    save_model_folder(folder, random_model(config), tokenizer, greedy(8))


def test_a_port_that_is_taken_meanwhile_is_named(door, tokenizer, tmp_path, monkeypatch):
    save_tiny_model(tmp_path / "model", tokenizer)

    def launch(self, **options) -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", options["server_port"]))
            other.listen()
            real(self, **options)

    real, port = gr.Blocks.launch, free_port()
    monkeypatch.setattr(gr.Blocks, "launch", launch)
    own = (f"port={port}", f"model_path={tmp_path / 'model'}")
    code, _, err = door(web.web, "web", *own, free_text=("model_path",))
    assert (code, err.count("\n")) == (2, 1)
    assert f"host=127.0.0.1 port={port}: cannot listen there: it was taken" in err


def test_ipv6_is_served(door, tokenizer, tmp_path, monkeypatch):
    save_tiny_model(tmp_path / "model", tokenizer)
    launched = []
    monkeypatch.setattr(gr.Blocks, "launch", lambda self, **options: launched.append(options))
    monkeypatch.setattr(gr.Blocks, "block_thread", lambda self: None)
    own = ("host='::1'", "port=0", f"model_path={tmp_path / 'model'}")
    _, out, err = door(web.web, "web", *own, free_text=("model_path",))
    if "cannot listen" in err:
        pytest.skip("no IPv6 on this machine")
    assert launched[0]["server_name"] == "[::1]"
    assert f"answers at http://[::1]:{launched[0]['server_port']} " in out


@pytest.fixture(scope="module")
def address(tokenizer, tmp_path_factory) -> Iterator[str]:
    """Where a page of two models listens; slow ones, so that they can be stopped."""
    folders = []
    for seed in range(2):
        folder = tmp_path_factory.mktemp("run") / "model"
        shape = {"n_positions": 1024, "n_layer": 16, "n_embd": 128}
        config = tiny_config(vocab_size=tokenizer.vocab_size, **shape)
        save_model_folder(folder, random_model(config, seed), tokenizer, greedy(64))
        (folder.parent / "run.json").write_text(
            json.dumps({"settings": {"sample_prompts": ["Who are you?", "What is 2 + 2?"]}})
        )
        folders.append(folder)
    port = free_port()
    command = [sys.executable, "-m", "src.web", f"port={port}", "generation.max_new_tokens=64"]
    own = [f"model_path={folders[0]}", f"compare_with={folders[1]}"]
    server = subprocess.Popen([*command, *own], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        line = server.stdout.readline()
        assert "answers at http://127.0.0.1:" in line
        yield re.search(r"http://\S+", line)[0]
    finally:
        server.terminate()
        server.wait(20)


@pytest.mark.slow
def test_nothing_can_be_uploaded(address):
    file = {"files": ("a.txt", b"some text")}
    answer = httpx.post(f"{address}/gradio_api/upload", files=file, timeout=60)
    assert answer.status_code == 413


@pytest.fixture
def page(address) -> Iterator:
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        pytest.skip("no Chromium here (apt-get install chromium): the page is not driven")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=executable, args=["--no-sandbox", "--disable-background-networking"]
        )
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.set_default_timeout(SECONDS)
        asked_elsewhere = []
        page.on("request", lambda r: asked_elsewhere.append(r.url))
        page.goto(address)
        yield page
        browser.close()
    own = (address, "data:", "blob:")
    assert [url for url in asked_elsewhere if not url.startswith(own)] == []


def answer(page, number: int = -1) -> str:
    return page.locator(".message.bot").all()[number].inner_text()


def ask(page, question: str) -> None:
    box = page.locator("#ask textarea")
    box.fill(question)
    box.press("Enter")


def wait_for_status(page, text: str) -> None:
    page.locator("#status").get_by_text(re.compile(text)).wait_for()


def set_number(page, label: str, value: str) -> None:
    field = page.get_by_label(f"number input for {label}")
    field.fill(value)
    field.press("Tab")


@pytest.mark.slow
def test_a_conversation_streams_stops_and_can_be_tried_again(page):
    page.get_by_text("Who are you?").first.click()  # a question to start with
    wait_for_status(page, "64 tokens, .* reached its limit")
    first = answer(page)

    page.get_by_label("Retry").click()
    page.wait_for_function("!document.querySelector('#status').innerText.includes('tokens')")
    wait_for_status(page, "64 tokens")
    assert answer(page) == first  # greedy

    page.locator(".sidebar .toggle-button, .toggle-button").first.click()
    set_number(page, "max_new_tokens", "900")
    ask(page, "hello")
    page.locator(".message.bot").nth(1).wait_for()
    seen: set[int] = set()
    while len(seen) < 3:  # it grows before our eyes
        assert not page.get_by_text("900 tokens").count(), "it came all at once"
        seen.add(len(answer(page)))
    page.locator(".stop-button").click()
    page.locator(".submit-button").wait_for()
    stopped = answer(page)
    page.wait_for_timeout(1500)
    assert answer(page) == stopped
    assert "900 tokens" not in page.locator("#status").inner_text()

    set_number(page, "max_new_tokens", "5")
    ask(page, "and now?")
    wait_for_status(page, "^5 tokens")

    page.get_by_label("Clear").first.click()
    page.wait_for_function("document.querySelectorAll('.message.bot').length === 0")


@pytest.mark.slow
def test_two_models_answer_side_by_side(page):
    page.get_by_role("tab", name="Compare").click()
    page.get_by_placeholder("Ask both").fill("hello")
    page.get_by_role("button", name="Ask both").click()
    page.get_by_text(re.compile("64 tokens.*64 tokens")).wait_for()
    left, right = (
        page.locator(f"#answer-{side} textarea").input_value() for side in ("left", "right")
    )
    assert left
    assert right
    assert left != right
