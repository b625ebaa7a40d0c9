"""The loss of the scored tokens is the one that training logs, and Hugging Face's."""

import json
import math
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from src.adaptation import followed
from src.data.conversation import Conversation
from src.evaluation.encoded import encode
from src.evaluation.rows import rows_of_split
from src.evaluation.token_figures import article_columns, find_places, token_columns
from src.evaluation.token_scores import TokenScores, score_tokens
from src.talk.model_folder import load_model_folder
from tests.evaluation.conftest import ROUNDING
from tests.model.conftest import random_model, tiny_config
from tests.training.conftest import SMALL, train_config

CHAT = Conversation(
    (("Who are you?", "A model."), ("What is 1 + 1?", "2"), ("And then?", "Nothing.")),
    system="Be brief.",
)


@pytest.fixture(scope="module")
def small(runs):
    folder = runs()
    rows, _ = rows_of_split(train_config(*SMALL).data, "test")
    model_folder = load_model_folder(str(folder / "model"))
    conversations = [row.conversation for row in rows]
    return folder, model_folder.model.eval(), model_folder.tokenizer, conversations


@pytest.mark.parametrize("batch_size", [1, 7, 32])
def test_the_loss_is_the_one_that_training_logged(small, batch_size):
    folder, model, tokenizer, conversations = small
    logged = json.loads((folder / "metrics.json").read_text())
    encoded = encode(conversations, tokenizer, "responses")
    scores = score_tokens(model, encoded, block_size=64, batch_size=batch_size)
    columns = token_columns(scores, encoded, 64)
    assert columns["loss"].figure() == pytest.approx(logged["test/loss"], abs=ROUNDING)
    assert columns["accuracy"].figure() == pytest.approx(logged["test/accuracy"], abs=ROUNDING)
    assert columns["perplexity"].figure() == pytest.approx(math.exp(logged["test/loss"]), rel=1e-5)


def test_each_batch_is_scored_with_the_threads_that_fit_the_load(small):
    _, model, tokenizer, conversations = small
    encoded = encode(conversations[:6], tokenizer, "responses")
    with followed(threads := Mock()):
        score_tokens(model, encoded, block_size=64, batch_size=1)
    assert threads.adapt.call_count > 1


def test_each_token_has_the_loss_that_hugging_faces_model_gives_it(small):
    from transformers import GPT2LMHeadModel

    folder, model, tokenizer, conversations = small
    encoded = encode(conversations[:20], tokenizer, "responses")
    scores = score_tokens(model, encoded, block_size=256, batch_size=3)
    theirs = GPT2LMHeadModel.from_pretrained(folder / "model", dtype=torch.float32).eval()
    for row in range(20):
        example = encoded.corpus.example(row)
        ids = torch.from_numpy(example.input_ids.astype(np.int64))[None, :256]
        with torch.inference_mode():
            logits = theirs(ids, use_cache=False).logits[0, :-1]
        expected = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
        mine = scores.row == row
        order = np.argsort(scores.position[mine])
        positions = scores.position[mine][order]
        assert positions.tolist() == np.flatnonzero(example.supervised[:256]).tolist()
        np.testing.assert_allclose(
            scores.nats[mine][order], expected.numpy()[positions - 1], atol=1e-5
        )
        right = (logits.argmax(-1) == ids[0, 1:]).numpy()[positions - 1]
        assert scores.correct[mine][order].tolist() == right.tolist()


def test_rows_scored_in_two_parts_have_the_sums_of_the_whole(small):
    _, model, tokenizer, conversations = small

    def sums(part: list[Conversation]) -> np.ndarray:
        encoded = encode(part, tokenizer, "responses")
        scores = score_tokens(model, encoded, block_size=64, batch_size=4)
        return token_columns(scores, encoded, 64)["loss"].values.sum(axis=0)

    half = len(conversations) // 2
    parts = sums(conversations[:half]) + sums(conversations[half:])
    np.testing.assert_allclose(parts, sums(conversations), rtol=1e-6)


def test_bytes_are_those_of_the_taught_responses(tokenizer):
    partly = CHAT._replace(taught=(True, False, True))
    encoded = encode([CHAT, partly], tokenizer, "responses")
    assert encoded.num_bytes(1000).tolist() == [
        len(" A model. 2 Nothing."),
        len(" A model. Nothing."),
    ]
    assert encode([CHAT], tokenizer, "article").num_bytes(1000).tolist() == [
        len(" A model. 2 Nothing.") + 3 * len("### Response:")
    ]


def test_a_cut_row_has_the_bytes_of_its_scored_tokens(tokenizer):
    greek = Conversation((("Hi", "αβγδεζηθ"),))  # two bytes a letter, a token each
    encoded = encode([greek], tokenizer, "responses")
    whole = len(encoded.corpus.input_ids)
    assert encoded.num_bytes(whole)[0] == 1 + 16
    assert encoded.num_bytes(whole - 4)[0] == 1 + 16 - 3  # the end token is no text


def test_bits_per_byte_are_nats_over_ln_2_and_bytes(tokenizer):
    model = random_model(tiny_config(vocab_size=tokenizer.vocab_size, n_positions=256))
    encoded = encode([CHAT], tokenizer, "responses")
    scores = score_tokens(model, encoded, block_size=256, batch_size=1)
    expected = scores.nats.sum() / math.log(2) / len(" A model. 2 Nothing.")
    assert token_columns(scores, encoded, 256)["bits_per_byte"].figure() == pytest.approx(expected)


@pytest.mark.parametrize("supervise", ["responses", "article"])
def test_a_token_knows_its_turn_and_its_place_in_the_response(tokenizer, supervise):
    model = random_model(tiny_config(vocab_size=tokenizer.vocab_size, n_positions=256))
    opened = CHAT._replace(opening="Hello!", taught=(True, False, True))
    encoded = encode([CHAT, opened], tokenizer, supervise)
    scores = score_tokens(model, encoded, block_size=256, batch_size=2)
    places = find_places(scores, encoded)
    for row, turns in ((0, [1, 2, 3]), (1, [1, 3])):
        mine = (scores.row == row) & (places.in_response > 0)
        assert sorted(set(places.turn[mine].tolist())) == turns
        for turn in turns:
            tokens = mine & (places.turn == turn)
            order = np.argsort(scores.position[tokens])
            assert places.in_response[tokens][order].tolist() == list(range(1, tokens.sum() + 1))
            ids = encoded.corpus.example(row).input_ids[scores.position[tokens][order]].tolist()
            assert tokenizer.decode(ids[:-1]) == " " + CHAT.turns[turn - 1][1]
            assert places.is_end[tokens][order].tolist() == [False] * (len(ids) - 1) + [True]


def test_first_and_end_tokens_are_counted_apart(tokenizer):
    encoded = encode([CHAT], tokenizer, "responses")
    positions = np.flatnonzero(encoded.corpus.supervised)
    is_end = encoded.corpus.input_ids[positions] == tokenizer.end_id
    scores = TokenScores(
        np.zeros(len(positions), dtype=np.int64), positions, np.ones(len(positions)), is_end
    )
    columns = token_columns(scores, encoded, 1000)
    assert columns["end_token_accuracy"].figure() == 1.0
    assert columns["first_token_accuracy"].figure() == 0.0
    assert columns["accuracy"].figure() == pytest.approx(3 / len(positions))
    assert {"loss/turn_1", "loss/turn_2", "loss/turn_3", "loss/position_1-4"} <= columns.keys()
    assert "loss/turn_4" not in columns
    assert columns["loss/turn_2"].figure() == 1.0


def test_the_articles_accuracy_is_a_mean_over_batches_of_32_rows():
    row = np.repeat(np.arange(40), np.arange(40) % 3 + 1)
    correct = np.arange(len(row)) % 4 == 0
    scores = TokenScores(row, np.zeros_like(row), np.zeros(len(row)), correct)
    first = row < 32
    expected = (correct[first].mean() + correct[~first].mean()) / 2
    assert expected != pytest.approx(correct.mean())
    assert article_columns(scores, 40).figure() == pytest.approx(expected)


def test_a_row_that_is_too_long_loses_its_tail(tokenizer):
    model = load_model(tokenizer)
    long = Conversation((("Hi", "word " * 100), ("Bye", "Bye.")))
    encoded = encode([long, CHAT], tokenizer, "responses")
    scores = score_tokens(model, encoded, block_size=64, batch_size=1)
    assert encoded.cut(64).tolist() == [True, True]
    assert scores.position.max() == 63


def load_model(tokenizer):
    return random_model(tiny_config(vocab_size=tokenizer.vocab_size, n_positions=64))


def test_no_row_with_anything_to_score_gives_no_figure(tokenizer):
    encoded = encode([Conversation((("word " * 100, "Yes"),))], tokenizer, "responses")
    scores = score_tokens(load_model(tokenizer), encoded, block_size=64, batch_size=1)
    columns = token_columns(scores, encoded, 64)
    assert math.isnan(columns["loss"].figure())
    assert math.isnan(columns["bits_per_byte"].figure())
