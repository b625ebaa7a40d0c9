"""The embedded corpus is fair: nothing in the test split can be looked up in training."""

import json
import re
import subprocess
import sys
from collections import Counter, defaultdict

import pytest

from src.data import sample
from src.data.sample import (
    Question,
    computed,
    hurried,
    normalised,
    questions,
    sample_rows,
)
from src.data.sample.split import split_of

ROWS = sample_rows()
HELD_OUT_SPLITS = ("validation", "test")


def plain(text: str) -> str:
    """Letters, digits and the signs + and - only: written anew, not with the code under test."""
    return re.sub(r"[^\w+-]", "", text.lower())


def test_rows_have_the_four_fields_and_no_empty_or_unstripped_text():
    for row in ROWS:
        assert set(row) == {"prompt", "response", "family", "split"}
        assert all(text and text == text.strip() for text in row.values()), row
        assert "{" not in row["prompt"] + row["response"], row


def test_there_is_enough_to_learn_and_to_measure():
    test_rows = Counter(row["family"] for row in ROWS if row["split"] == "test")
    families = {row["family"] for row in ROWS}
    assert len(ROWS) >= 3000
    assert len(families) >= 12
    assert all(test_rows[family] >= 20 for family in families), test_rows


def test_a_tenth_is_for_testing_and_a_twentieth_for_validation():
    splits = Counter(row["split"] for row in ROWS)
    assert set(splits) == {"train", "validation", "test"}
    assert splits["test"] / len(ROWS) == pytest.approx(0.10, abs=0.02)
    assert splits["validation"] / len(ROWS) == pytest.approx(0.05, abs=0.02)


def test_no_prompt_occurs_twice_whatever_its_case_punctuation_and_spacing():
    twice = [prompt for prompt, n in Counter(plain(row["prompt"]) for row in ROWS).items() if n > 1]
    assert twice == []


def test_held_out_operands_never_occur_in_training_in_either_order():
    pairs = defaultdict(set)
    for row in ROWS:
        if row["family"] == "addition":
            numbers = frozenset(re.findall(r"\d+", row["prompt"]))
            pairs[row["family"], row["split"]].add(numbers)
    for family in ("addition",):
        assert not pairs[family, "train"] & pairs[family, "test"]
        assert not pairs[family, "train"] & pairs[family, "validation"]
        assert not pairs[family, "validation"] & pairs[family, "test"]


@pytest.mark.parametrize("family", ["even_odd"])
def test_held_out_numbers_never_occur_in_training_in_another_phrasing(family):
    """The order of the numbers tells nothing in "Take 3 away from 8": the response is compared."""
    answers = defaultdict(set)
    for row in ROWS:
        if row["family"] == family:
            answers[row["split"]].add(row["response"])
    assert not answers["train"] & answers["test"]
    assert not answers["train"] & answers["validation"]


def test_the_answers_of_the_computed_families_are_right():
    for row in ROWS:
        numbers = [int(number) for number in re.findall(r"\d+", row["response"])]
        match row["family"]:
            case "addition":
                assert numbers[0] + numbers[1] == numbers[2]
            case "even_odd":
                assert row["response"].endswith(("even.", "odd.")[numbers[0] % 2])


def of_tables() -> list[tuple[Question, str]]:
    asked = [question for question in questions() if question.family not in computed.COMPUTED]
    return [(question, split_of(question.family, question.unit)) for question in asked]


def test_every_tested_fact_and_phrasing_is_taught_but_never_together():
    facts, phrasings, both = defaultdict(set), defaultdict(set), defaultdict(set)
    for question, split in of_tables():
        facts[split].add((question.family, question.fact))
        phrasings[split].add((question.family, question.phrasing))
        both[split].add((question.family, question.fact, question.phrasing))
    for split in HELD_OUT_SPLITS:
        assert both[split]
        assert facts[split] <= facts["train"]
        assert phrasings[split] <= phrasings["train"]
        assert not both[split] & both["train"]


def test_every_fact_of_a_table_is_asked_in_at_least_eight_ways():
    ways = Counter((question.family, question.fact) for question, _ in of_tables())
    assert min(ways.values()) >= 8


def test_every_phrasing_of_a_computed_family_is_taught():
    taught, tested = set(), set()
    for question in questions():
        if question.family in computed.COMPUTED:
            train = split_of(question.family, question.unit) == "train"
            (taught if train else tested).add((question.family, question.phrasing))
    assert tested <= taught


def test_another_process_with_another_hash_seed_makes_the_same_rows():
    program = (
        "import json; from src.data.sample import sample_rows; print(json.dumps(sample_rows()))"
    )
    output = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONHASHSEED": "7", "PYTHONUTF8": "1", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert json.loads(output) == ROWS


def test_two_rows_that_ask_the_same_are_refused(monkeypatch):
    first = Question("a", "1", (), "", "What is it?", "A cat.")
    second = Question("b", "2", (), "", "what is it", "A dog.")
    monkeypatch.setattr(sample, "questions", lambda: (first, second))
    with pytest.raises(ValueError, match=r"what is it.*asks the same as .What is it"):
        sample_rows()


def test_prompts_typed_in_a_hurry():
    assert hurried("What's 3 + 4, please?") == "whats 3 + 4 please"
    assert hurried("7: even or odd?") == "7 even or odd"


def test_normalised_prompts_differ_only_when_the_question_differs():
    assert normalised("What's the CAPITAL of  Peru?") == normalised("whats the capital of peru")
    assert normalised("What is 5 + 2?") != normalised("What is 5 - 2?")
