"""A program that calls us computes a reply with as many threads as cores are free."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from src import free_threads, shared_cores
from src.adaptation import follow_load, followers
from src.free_cores import Load, allowed_cores
from src.free_threads import FreeThreads
from src.shared_cores import Follower, threads_in_torch
from src.talk.assistant import Assistant
from src.talk.chat_model import ChatModel
from tests.conftest import greedy
from tests.model.conftest import random_model, tiny_config


@pytest.fixture
def room(monkeypatch):
    """Two cores, of which others leave as many as the test says."""
    found = {"free": 2.0, "glances": 0}

    def now(*_) -> Load:
        found["glances"] += 1
        return Load(own=0.0, by_core={}, room=found["free"])

    monkeypatch.setattr(free_threads, "load_now", now)
    monkeypatch.setattr(free_threads.Load, "between", staticmethod(now))
    monkeypatch.setattr(free_threads, "PERIOD", 0.0)
    monkeypatch.setattr(free_threads, "FRESH", 1000.0)
    monkeypatch.setattr(free_threads, "auto_threads", lambda: 2)
    with threads_in_torch(1):
        yield found


def test_the_number_of_threads_follows_the_load(room):
    threads = FreeThreads("auto", "cpu")
    before = set(threading.enumerate())
    with threads.meanwhile():
        assert torch.get_num_threads() == 2
        for free, number in ((1.0, 1), (2.0, 1), (2.0, 2)):  # twice free: it is no pause
            room["free"] = free
            follow_load()
            assert torch.get_num_threads() == number
        assert set(threading.enumerate()) <= before  # another test's may end meanwhile
    assert torch.get_num_threads() == 1
    assert not followers


def test_the_next_reply_begins_with_what_was_seen_last(room, monkeypatch):
    threads = FreeThreads("auto", "cpu")
    room["free"] = 1.0
    for _ in range(3):
        with threads.meanwhile():
            assert torch.get_num_threads() == 1
    assert room["glances"] == 1
    monkeypatch.setattr(free_threads, "FRESH", -1.0)
    with threads.meanwhile():
        assert room["glances"] == 2


@pytest.mark.parametrize(("threads", "device"), [(2, "cpu"), ("auto", "cuda")])
def test_a_number_and_a_gpu_follow_nothing(room, threads, device):
    room["free"] = 1.0
    with FreeThreads(threads, device).meanwhile():
        follow_load()
        assert torch.get_num_threads() == 2
    assert not room["glances"]


@contextmanager
def chatting(threads: FreeThreads) -> Iterator[None]:
    """Compute a reply in another thread meanwhile."""
    begun, ended = threading.Event(), threading.Event()

    def chat() -> None:
        with threads.meanwhile():
            begun.set()
            assert ended.wait(60)

    other = threading.Thread(target=chat)
    other.start()
    assert begun.wait(60)
    try:
        yield
    finally:
        ended.set()
        other.join(60)


def test_a_chat_in_another_thread_leaves_ours_alone(room):
    room["free"] = 1.0
    with threads_in_torch(2), chatting(FreeThreads("auto", "cpu")):
        follow_load()
        assert torch.get_num_threads() == 2


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_run_with_a_fixed_number_of_threads_keeps_it(room, elsewhere, monkeypatch):
    monkeypatch.setattr(shared_cores, "can_move", lambda: False)
    threads = FreeThreads("auto", "cpu")
    chat = chatting(threads) if elsewhere else threads.meanwhile()
    with threads_in_torch(2), Follower(2, Load(0.0, {}, 2.0)), chat:
        room["free"] = 1.0
        follow_load()
        assert torch.get_num_threads() == 2


def test_what_computes_for_us_in_another_thread_follows_our_load(monkeypatch):
    monkeypatch.setattr(shared_cores, "PERIOD", 1000.0)  # it sees no load but the one given
    monkeypatch.setattr(shared_cores, "can_move", lambda: False)
    found = []

    def engine() -> None:
        torch.set_num_threads(2)
        follow_load()
        found.append(torch.get_num_threads())

    with threads_in_torch(1), Follower(2, Load(0.0, {}, 1.0), adapts=True):
        other = threading.Thread(target=engine)
        other.start()
        other.join(60)
    assert found == [1]


@pytest.fixture
def model(room, tokenizer) -> ChatModel:
    """Answers several pieces, with two threads."""
    talks = Assistant(random_model(tiny_config(vocab_size=320), 0), tokenizer, end_ids=())
    model = ChatModel(talks, greedy(12), "tiny", FreeThreads("auto", "cpu"))
    assert len(list(model.stream("What is 1?"))) > 3
    return model


def test_between_two_pieces_a_callers_threads_are_its_own(model):
    one, other = model.stream("What is 1?"), model.stream("What is 2?")
    for pieces in (one, other, one, other):
        assert next(pieces)
        assert torch.get_num_threads() == 1
    torch.set_num_threads(3)  # as the caller may meanwhile
    assert list(one)
    assert list(other)
    assert torch.get_num_threads() == 3


def test_a_stream_that_nobody_reads_on_leaves_nothing_behind(model):
    pieces = model.stream("What is 1?")
    assert next(pieces)
    assert not followers
    del pieces
    assert torch.get_num_threads() == 1
    assert model.reply("What is 1?") == model.reply("What is 1?")


def test_the_cores_that_a_process_may_use_are_seen():
    assert FreeThreads("auto", "cpu").most <= len(allowed_cores())
