import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from fastapi.testclient import TestClient

from src.address import bind
from src.data.tokenizer import train_tokenizer
from src.model.decoder import Decoder
from src.serving.app import create_app
from src.serving.config import ServeConfig
from src.serving.engine import Engine
from src.serving.server import Server, make_server
from src.talk.assistant import Assistant
from tests.conftest import greedy
from tests.model.conftest import random_model, tiny_config

QUESTIONS = ["Hello", "how are you?", "1 2 3", "I am fine: are you there?", "you?", "3 2 1 fine"]
HOST = "http://127.0.0.1"  # as a client of this machine names it
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
PATIENCE = 60  # seconds that a test waits for what is sure to happen, on a busy machine


def tiny_assistant(n_positions: int = 128) -> Assistant:
    """A model that says another nonsense to every question."""
    tokenizer = train_tokenizer(["Hello there, how are you? I am fine: 1 2 3."] * 3, 300)
    config = tiny_config(vocab_size=tokenizer.vocab_size, n_positions=n_positions)
    return Assistant(random_model(config), tokenizer)


class GatedDecoder(Decoder):
    """Takes a step only while the gate is open; counts them, and can close it after one."""

    def __init__(self, *args):
        super().__init__(*args)
        self.gate = threading.Event()
        self.gate.set()
        self.num_steps = 0
        self.num_joined = 0
        self.hold_after: int | None = None
        self.most_at_once = 0

    def join(self, *args) -> list[int]:
        slots = super().join(*args)
        self.num_joined += len(slots)
        return slots

    def step(self) -> dict[int, int]:
        if self.num_steps == self.hold_after:
            self.gate.clear()
        assert self.gate.wait(PATIENCE)
        self.num_steps += 1
        tokens = super().step()
        self.most_at_once = max(self.most_at_once, len(tokens))
        return tokens


@contextmanager
def running_engine(assistant: Assistant, num_slots: int, max_queue: int) -> Iterator[Engine]:
    def decoder() -> GatedDecoder:
        return GatedDecoder(assistant.model, num_slots, "fp32")

    with Engine(decoder, assistant.end_ids, max_queue) as engine:
        try:
            yield engine
        finally:
            engine.decoder.gate.set()


def wait_until(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def ask(text: object = "Hello", **fields) -> dict[str, object]:
    """The body of a chat request."""
    return {"model": "tiny", "messages": [{"role": "user", "content": text}], **fields}


def serve_config(**changes) -> ServeConfig:
    values = {
        "generation": greedy(24),
        "host": "127.0.0.1",
        "port": 0,
        "model_path": None,
        "model_name": "tiny",
        "device": "cpu",
        "api_key": None,
        "allow_origins": [],
        "allowed_hosts": None,
        "parse_special": True,
        "num_slots": 4,
        "max_queue": 64,
        "max_answers": 4,
        "max_text_kib": 64,
        "max_seconds": 60.0,
        "receive_seconds": 60.0,
        "shutdown_seconds": 30.0,
        "max_connections": 100,
        "threads": 1,
    }
    return ServeConfig(**values | changes)


@pytest.fixture(scope="session")
def assistant() -> Assistant:
    return tiny_assistant()


@pytest.fixture(scope="module")
def client(assistant: Assistant) -> Iterator[TestClient]:
    """Asks the API without a network; four answers at a time."""
    with running_engine(assistant, 4, 64) as engine:
        app = create_app(assistant, engine, serve_config())
        with TestClient(app, HOST, raise_server_exceptions=False) as client:
            yield client


@dataclass
class Running:
    """A server that listens, and its engine."""

    url: str
    port: int
    engine: Engine
    server: Server

    def limit(self, **seconds: float) -> None:
        """Change the limits of connections, from the next time on that a timer is set."""
        for name, value in seconds.items():
            assert hasattr(self.server.config.http, name)
            setattr(self.server.config.http, name, value)


@contextmanager
def running_server(assistant: Assistant, **changes) -> Iterator[Running]:
    """Serve on a free port of this machine, in a thread."""
    settings = serve_config(**changes)
    with running_engine(assistant, settings.num_slots, settings.max_queue) as engine:
        listening = threading.Event()
        app = create_app(assistant, engine, settings)
        server = make_server(app, engine, settings, listening.set)
        bound = bind(settings.host, settings.port)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        try:
            assert listening.wait(PATIENCE)
            port = bound.getsockname()[1]
            yield Running(f"http://127.0.0.1:{port}", port, engine, server)
        finally:
            engine.decoder.gate.set()
            server.should_exit = True
            thread.join(PATIENCE)
            assert not thread.is_alive()
