"""Exact match counts what a person would count; the look-up baseline finds the nearest prompt."""

import time

import pytest

from src.data.sample import sample_rows
from src.evaluation.exact_match import exact_match, nearest_neighbour


def test_exact_match_counts_over_all_and_for_each_family():
    scores = exact_match(
        answers=["7", " 12\n", "paris", "Rome"],
        references=["7", "12", "Paris", "Rome"],
        families=["sums", "sums", "capitals", "capitals"],
    )
    assert scores == {
        "exact_match": 0.75,
        "exact_match/capitals": 0.5,
        "exact_match/sums": 1.0,
    }


def test_exact_match_over_all_weighs_rows_not_families():
    scores = exact_match(["a", "b", "c", "x"], ["a", "b", "c", "d"], ["f", "f", "f", "g"])
    assert scores["exact_match"] == 0.75
    assert scores["exact_match/g"] == 0.0


def test_exact_match_refuses_what_cannot_be_scored():
    with pytest.raises(ValueError, match="at least one"):
        exact_match([], [], [])
    with pytest.raises(ValueError, match="zip"):
        exact_match(["a", "b"], ["a"], ["f", "f"])


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


def test_the_baseline_is_decent_fast_and_far_from_enough_on_the_embedded_corpus():
    rows = sample_rows()
    train = [row for row in rows if row["split"] == "train"]
    test = [row for row in rows if row["split"] == "test"]
    start = time.perf_counter()
    answers = nearest_neighbour(
        [row["prompt"] for row in train],
        [row["response"] for row in train],
        [row["prompt"] for row in test],
    )
    seconds = time.perf_counter() - start
    scores = exact_match(
        answers, [row["response"] for row in test], [row["family"] for row in test]
    )
    assert 0.2 < scores["exact_match"] < 0.6
    assert scores["exact_match/people"] > 0.9
    assert scores["exact_match/addition"] == 0.0
    assert seconds < 10
