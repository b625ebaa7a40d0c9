"""Replies side by side are those one at a time, whoever joins, leaves or fails meanwhile."""

import threading

import pytest

from src.model.decoder import Decoder
from src.model.generation import generate
from src.serving.engine import Completion, Engine, EngineStopped, QueueFull
from src.talk.assistant import Reply
from src.talk.messages import Message
from src.talk.text_stream import TextStream
from tests.conftest import greedy
from tests.serving.conftest import (
    PATIENCE,
    QUESTIONS,
    GatedDecoder,
    running_engine,
    tiny_assistant,
    wait_until,
)

LENGTHS = (3, 24, 7, 16, 1, 11)


@pytest.fixture(scope="module")
def assistant():
    return tiny_assistant()


class Asked:
    """A completion, and what came of it."""

    def __init__(self, assistant, question: str, max_new_tokens: int = 8, **changes):
        ids = assistant.template([Message("user", question)])
        config = greedy(max_new_tokens, **changes)
        stream = TextStream(assistant.tokenizer, config.stop)
        reply = Reply(None, stream, len(ids), max_new_tokens)
        self.pieces: list[str] = []
        self.done = threading.Event()
        self.completion = Completion(ids, config, reply, self.deliver)

    def deliver(self, piece: str, ended: bool) -> None:
        assert not self.done.is_set(), "nothing comes after the end"
        self.pieces.append(piece)
        if ended:
            self.done.set()

    def text(self) -> str:
        assert self.done.wait(PATIENCE)
        assert self.completion.error is None
        assert "".join(self.pieces) == self.completion.reply.text
        return self.completion.reply.text


def alone(assistant, question: str, max_new_tokens: int = 8, **changes) -> str:
    return assistant.replies([question], greedy(max_new_tokens, **changes))[0]


@pytest.mark.parametrize("num_slots", [1, 2, 6])
def test_replies_that_join_and_leave_are_those_one_at_a_time(num_slots, assistant):
    expected = [alone(assistant, q, n) for q, n in zip(QUESTIONS, LENGTHS, strict=True)]
    with running_engine(assistant, num_slots, 50) as engine:
        asked = [Asked(assistant, q, n) for q, n in zip(QUESTIONS, LENGTHS, strict=True)]
        for one in asked[:4]:
            engine.submit([one.completion])
        asked[0].text()
        engine.submit([one.completion for one in asked[4:]])
        assert [one.text() for one in asked] == expected
        assert len(set(expected)) == len(QUESTIONS)
        assert engine.decoder.most_at_once <= num_slots
        wait_until(lambda: engine.num_running == 0)


def test_a_newcomer_does_not_wait_for_the_end_of_the_others(assistant):
    with running_engine(assistant, 2, 50) as engine:
        long, short = Asked(assistant, "Hello", 100), Asked(assistant, "you?", 2)
        engine.decoder.hold_after = 5
        engine.submit([long.completion])
        wait_until(lambda: not engine.decoder.gate.is_set())
        engine.submit([short.completion])
        engine.decoder.hold_after = 10
        engine.decoder.gate.set()
        short.text()
        assert not long.done.is_set()
        wait_until(lambda: not engine.decoder.gate.is_set())
        engine.decoder.gate.set()
        assert long.text() == alone(assistant, "Hello", 100)
        assert engine.decoder.most_at_once == 2


def test_each_has_its_own_settings_and_seed(assistant):
    settings = [{}, {"temperature": 1.5, "seed": 3}, {"temperature": 1.5, "seed": 4, "top_k": 5}]
    with running_engine(assistant, 4, 50) as engine:
        asked = [Asked(assistant, "Hello", **changes) for changes in settings]
        engine.submit([one.completion for one in asked])
        texts = [one.text() for one in asked]
    assert texts == [alone(assistant, "Hello", **changes) for changes in settings]
    assert len(set(texts)) == 3


def test_long_prompts_are_read_between_the_steps_of_others(assistant):
    """Not all at once: whoever is being answered goes on."""
    with running_engine(assistant, 6, 50) as engine:
        engine.decoder.gate.clear()
        first = Asked(assistant, "Hello", 100)
        engine.submit([first.completion])
        wait_until(lambda: engine.num_running == 1)
        engine.submit([Asked(assistant, "1 " * 55).completion for _ in range(5)])
        assert len(engine._next_batch()) == 3  # of over 128 tokens each: 512 in a step
        engine.decoder.gate.set()


def test_a_full_queue_takes_all_or_none(assistant):
    with running_engine(assistant, 1, 2) as engine:
        engine.decoder.gate.clear()
        asked = [Asked(assistant, question) for question in QUESTIONS]
        engine.submit([asked[0].completion])
        wait_until(lambda: engine.num_running == 1)
        engine.submit([asked[1].completion])
        with pytest.raises(QueueFull, match="1 answers are waiting"):
            engine.submit([asked[2].completion, asked[3].completion])
        engine.submit([asked[4].completion])
        assert engine.num_waiting == 2
        engine.decoder.gate.set()
        for number in (0, 1, 4):
            assert asked[number].text() == alone(assistant, QUESTIONS[number])
        assert not asked[2].pieces
        assert not asked[3].pieces


def test_what_is_cancelled_is_computed_no_further_and_makes_room(assistant):
    with running_engine(assistant, 1, 2) as engine:
        running, waiting = Asked(assistant, "Hello", 100), Asked(assistant, "1 2 3", 100)
        engine.decoder.hold_after = 3
        engine.submit([running.completion, waiting.completion])
        wait_until(lambda: not engine.decoder.gate.is_set())
        engine.cancel([waiting.completion])
        assert engine.num_waiting == 0
        engine.cancel([running.completion])
        before = len(running.pieces)
        engine.decoder.gate.set()
        after = Asked(assistant, "you?")
        engine.submit([after.completion])
        assert after.text() == alone(assistant, "you?")
        assert len(running.pieces) == before < 100
        assert not waiting.pieces
        assert running.completion.reply.stop_reason == "cancelled"
        engine.cancel([after.completion])
        assert after.completion.reply.stop_reason == "length"  # it had ended


@pytest.mark.parametrize("method", ["step", "join", "leave"])
def test_a_failing_decoder_fails_its_replies_and_is_replaced(method, assistant, caplog):
    expected = alone(assistant, "you?")

    def broken(*args):
        raise MemoryError

    with running_engine(assistant, 1, 2) as engine:
        first = engine.decoder
        setattr(first, method, broken)
        failing, waiting = Asked(assistant, "Hello"), Asked(assistant, "you?")
        engine.submit([failing.completion, waiting.completion])
        assert failing.done.wait(PATIENCE)
        assert waiting.text() == expected
        assert engine.decoder is not first
        assert engine.is_alive
    if method != "leave":  # when its reply had ended
        assert isinstance(failing.completion.error, MemoryError)
    assert "decoding failed" in caplog.text


def test_a_stopped_engine_ends_every_reply(assistant):
    with running_engine(assistant, 1, 2) as engine:
        asked = [Asked(assistant, "Hello", 100), Asked(assistant, "you?")]
        engine.decoder.hold_after = 3
        engine.submit([one.completion for one in asked])
        wait_until(lambda: not engine.decoder.gate.is_set())
        engine.stop()
        engine.decoder.gate.set()  # a step that has begun is finished
        for one in asked:
            assert one.done.wait(PATIENCE)
            assert isinstance(one.completion.error, EngineStopped)
        with pytest.raises(EngineStopped):
            engine.submit([Asked(assistant, "Hello").completion])
        assert not engine.is_alive


def test_a_decoder_that_cannot_be_made_again_ends_the_engine(assistant, monkeypatch):
    made = []

    def make() -> GatedDecoder:
        if made:
            raise MemoryError
        made.append(GatedDecoder(assistant.model, 1, "fp32"))
        return made[0]

    monkeypatch.setattr(threading, "excepthook", lambda args: None)  # it goes to standard error
    with Engine(make, assistant.end_ids, 5) as engine:
        engine.decoder.step = lambda: 1 / 0
        asked = [Asked(assistant, "Hello"), Asked(assistant, "you?")]
        engine.submit([one.completion for one in asked])
        assert all(one.done.wait(PATIENCE) for one in asked)
        wait_until(lambda: not engine.is_alive)
        assert isinstance(asked[1].completion.error, EngineStopped)


@pytest.mark.parametrize("ignore_eos", [False, True])
def test_with_ignore_eos_the_end_token_is_read_on_without_a_text(ignore_eos, assistant):
    asked = Asked(assistant, "Hello", 24)
    prompt = asked.completion.prompt
    tokens = [token for (token,) in generate(assistant.model, [prompt], (), greedy(24))]
    end_id = tokens[5]
    asked.completion.ignore_eos = ignore_eos
    with Engine(lambda: Decoder(assistant.model, 2, "fp32"), {end_id}, 4) as engine:
        engine.submit([asked.completion])
        text, reply = asked.text(), asked.completion.reply
    num_new = 24 if ignore_eos else tokens.index(end_id)
    assert (reply.num_new_tokens, reply.stop_reason) == (num_new, "length" if ignore_eos else "end")
    shown = [token for token in tokens[:num_new] if token != end_id]
    assert text == assistant.tokenizer.decode(shown).lstrip()
