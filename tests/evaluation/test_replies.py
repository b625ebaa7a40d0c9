"""Replies are those of a conversation alone, whatever is decoded beside them."""

import pytest

from src.data.tokenizer import train_tokenizer
from src.evaluation.replies import answer_all, choose_rows
from src.talk.assistant import Assistant
from src.talk.messages import Message
from tests.conftest import greedy
from tests.model.conftest import random_model, tiny_config

PROMPTS = ["Hello", "how are you?", "1 2 3 and a longer question about nothing at all", "fine"]


def ask(prompt: str) -> list[Message]:
    return [Message("user", prompt)]


@pytest.fixture(scope="module")
def assistant() -> Assistant:
    tokenizer = train_tokenizer(["Hello there, how are you? I am fine: 1 2 3."] * 3, 300)
    config = tiny_config(vocab_size=tokenizer.vocab_size, n_positions=96)
    return Assistant(random_model(config), tokenizer)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.parametrize("stop", [[], ["e"]])
def test_a_reply_is_that_of_a_chat(assistant, batch_size, stop):
    generation = greedy(16, stop=stop)
    replies = [assistant.reply(ask(prompt), generation) for prompt in PROMPTS]
    expected = [(r.read_all(), r.stop_reason, r.num_new_tokens) for r in replies]
    found = answer_all(assistant, [ask(p) for p in PROMPTS], generation, batch_size)
    assert [(a.text, a.stop_reason, a.num_tokens) for a in found] == expected


def test_the_end_token_ends_a_reply(assistant):
    (first,) = answer_all(assistant, [ask("Hello")], greedy(4), 1)
    assert (first.stop_reason, first.num_tokens) == ("length", 4)
    ids = assistant.tokenizer.encode(first.text)
    ending = Assistant(assistant.model, assistant.tokenizer, end_ids=range(300))
    (ended,) = answer_all(ending, [ask("Hello")], greedy(4), 1)
    assert ids
    assert (ended.text, ended.stop_reason, ended.num_tokens) == ("", "end", 0)


def test_a_question_that_does_not_fit_is_not_asked(assistant):
    counted = []
    found = answer_all(assistant, [ask("word " * 500), ask("Hello")], greedy(4), 2, counted.append)
    assert not found[0].was_asked
    assert found[1].was_asked
    assert sum(counted) == 2


def test_rows_are_drawn_by_chance_and_the_same_for_the_same_seed():
    rows = list(range(1000))
    chosen = choose_rows(rows, 10, seed=1)
    assert chosen == sorted(set(chosen)) == choose_rows(rows, 10, seed=1)
    assert chosen != choose_rows(rows, 10, seed=2)
    assert max(chosen) > 100  # not the first ones
    assert choose_rows(rows, None, seed=1) == rows == choose_rows(rows, 5000, seed=1)
    assert choose_rows(rows, 0, seed=1) == []
