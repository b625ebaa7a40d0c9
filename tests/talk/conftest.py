import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from src.data.tokenizer import train_tokenizer
from src.model.decoder import Decoder
from src.talk.assistant import Assistant
from src.talk.engine import Engine
from tests.model.conftest import random_model, tiny_config

QUESTIONS = ["Hello", "how are you?", "1 2 3", "I am fine: are you there?", "you?", "3 2 1 fine"]


def tiny_assistant() -> Assistant:
    """A model of 128 positions that says another nonsense to every question."""
    tokenizer = train_tokenizer(["Hello there, how are you? I am fine: 1 2 3."] * 3, 300)
    config = tiny_config(vocab_size=tokenizer.vocab_size, n_positions=128)
    return Assistant(random_model(config), tokenizer)


class GatedDecoder(Decoder):
    """Takes a step only while the gate is open; counts them, and can close it after one."""

    def __init__(self, *args):
        super().__init__(*args)
        self.gate = threading.Event()
        self.gate.set()
        self.num_steps = 0
        self.hold_after: int | None = None
        self.most_at_once = 0

    def step(self) -> dict[int, int]:
        if self.num_steps == self.hold_after:
            self.gate.clear()
        assert self.gate.wait(30)
        self.num_steps += 1
        tokens = super().step()
        self.most_at_once = max(self.most_at_once, len(tokens))
        return tokens


@contextmanager
def running_engine(assistant: Assistant, num_slots: int, max_queue: int) -> Iterator[Engine]:
    def decoder() -> GatedDecoder:
        return GatedDecoder(assistant.model, num_slots, "fp32")

    with Engine(decoder, assistant.tokenizer.end_id, max_queue) as engine:
        try:
            yield engine
        finally:
            engine.decoder.gate.set()


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)
