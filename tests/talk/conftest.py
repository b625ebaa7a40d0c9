import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from src.data.tokenizer import Tokenizer, train_tokenizer
from src.model.decoder import Decoder
from src.talk.assistant import Assistant
from src.talk.engine import Engine
from src.talk.model_folder import save_model_folder
from tests.conftest import greedy
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


# Digits, letters, spaces and signs in every neighbourhood that splits a text in two.
TEXTS = (
    "What is 2024 + 17? It's 2041, isn't it?",
    "  2  spaces   three\n\n\nlines\t\ttabs \n end ",
    "naïve café — “quoted” … 日本語 한국어 العربية हिन्दी 🙂👍🏽👨‍👩‍👧",
    "x² ½ Ⅷ ٣٤ ৩ 1st 2nd 3.14 1,000,000 0x1F a1b2 ¼½¾",
    "they've we'll I'm he'd 'tis 'RE don'T",
    "<|endoftext|> ### Response: <|endoftext|>### Prompt: and now?",
    "!!!??? ... --- ((())) #hash @at $5 50% a_b_c C++ C# path/to/file.txt",
    "\x00\x07\x1b[31m control \r\n windows \u2028 line \u00a0 space \u3000 wide",
    "",
    " ",
    "\n",
    "é é a\u0301\u0302\u0303 ﬁ ß ẞ İ ı",
)


# Teaches a piece of two spaces, which stands before a digit only where digits are split off first.
SPACED = "one  1  two  2  three  3"


@pytest.fixture(scope="session")
def digits_tokenizer() -> Tokenizer:
    """As the quickstart's: numbers are split into digits."""
    return train_tokenizer(
        ["Hello there, how are you? I am fine: 1 2 3. It's naïve.", SPACED] * 3, 300
    )


@pytest.fixture(scope="session")
def model_folder(digits_tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder as a run leaves it, with random weights: outputs of a run called some_run."""
    folder = tmp_path_factory.mktemp("runs") / "some_run" / "model"
    # 256 positions, as llama.cpp wants it, and 32 wide, as Q8_0 does
    config = tiny_config(vocab_size=digits_tokenizer.vocab_size + 3, n_positions=256)
    folder.parent.mkdir()
    save_model_folder(folder, random_model(config), digits_tokenizer, greedy(12))
    return folder
