"""Exact match counts what a person would count; the look-up baseline finds the nearest prompt."""

import time

import pytest

from src.data.conversation import Conversation, RowReader
from src.data.sample import sample_rows
from src.evaluation import held_out
from src.evaluation.exact_match import exact_match, nearest_neighbour


def test_exact_match_counts_over_all_and_for_each_label():
    scores = exact_match(
        answers=["7", " 12\n", "paris", "Rome"],
        references=["7", "12", "Paris", "Rome"],
        labels=[["sums"], ["sums", "turn_2"], ["capitals", "turn_2"], ["capitals"]],
    )
    assert scores == {
        "exact_match": 0.75,
        "exact_match/capitals": 0.5,
        "exact_match/sums": 1.0,
        "exact_match/turn_2": 0.5,
    }


def test_exact_match_over_all_weighs_rows_not_labels():
    scores = exact_match(["a", "b", "c", "x"], ["a", "b", "c", "d"], [["f"], ["f"], ["f"], ["g"]])
    assert scores["exact_match"] == 0.75
    assert scores["exact_match/g"] == 0.0


def test_exact_match_refuses_what_cannot_be_scored():
    with pytest.raises(ValueError, match="at least one"):
        exact_match([], [], [])
    with pytest.raises(ValueError, match="zip"):
        exact_match(["a", "b"], ["a"], [[], []])


def test_the_rare_word_decides_and_not_the_common_ones():
    train_prompts = [
        "What is the capital of Spain?",
        "What is the capital of Italy?",
        "Tell me about France.",
        "What is the opposite of hot?",
    ]
    responses = ["Madrid", "Rome", "Paris", "cold"]
    prompts = ["what is FRANCE", "Italy's capital: what is the capital of italy", "opposite?"]
    assert nearest_neighbour(train_prompts, responses, prompts) == ["Paris", "Rome", "cold"]


def test_a_long_prompt_does_not_win_by_its_length():
    train_prompts = ["cat dog bird fish tree house water bread", "cat dog"]
    assert nearest_neighbour(train_prompts, ["long", "short"], ["cat dog"]) == ["short"]


def test_ties_and_unknown_words_go_to_the_first():
    train_prompts = ["one two", "one two", "three"]
    assert nearest_neighbour(train_prompts, ["first", "second", "third"], ["two one"]) == ["first"]
    assert nearest_neighbour(train_prompts, ["first", "second", "third"], ["zebra"]) == ["first"]


def test_signs_count_as_words():
    assert nearest_neighbour(["5 + 2", "5 - 2"], ["7", "3"], ["2 - 5"]) == ["3"]


def test_the_baseline_refuses_prompts_without_responses():
    with pytest.raises(ValueError, match="one response for each"):
        nearest_neighbour(["a", "b"], ["1"], ["a"])
    with pytest.raises(ValueError, match="at least one"):
        nearest_neighbour([], [], ["a"])


def conversations(split: str) -> list[Conversation]:
    rows = [row for row in sample_rows() if row["split"] == split]
    reader = RowReader(list(rows[0]), None, "the embedded corpus")
    return [reader(row) for row in rows]


@pytest.mark.slow
def test_the_baseline_is_fast_and_far_from_enough_on_the_embedded_corpus():
    test = conversations("test")
    start = time.process_time()
    texts, replies = zip(*held_out.taught(conversations("train")), strict=True)
    answers = nearest_neighbour(texts, replies, [held_out.text(c) for c in test])
    seconds = time.process_time() - start
    scores = exact_match(
        answers, [held_out.reference(c) for c in test], [held_out.labels(c) for c in test]
    )
    assert 0.05 < scores["exact_match"] < 0.2
    assert 0.2 < scores["exact_match/turn_1"] < 0.6  # a single question can be looked up
    assert scores["exact_match/turn_2"] < 0.1
    assert scores["exact_match/addition"] == 0.0
    assert seconds < 20
