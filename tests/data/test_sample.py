"""The embedded corpus is fair: nothing in the test split can be looked up in training."""

import json
import re
import subprocess
import sys
from collections import Counter, defaultdict

import pytest

from src.data import sample
from src.data.sample import Row, computed, sample_rows
from src.data.sample.questions import (
    Question,
    hurried,
    normalised,
    questions,
    same_of_others,
)

ROWS = sample_rows()
HELD_OUT_SPLITS = ("validation", "test")
SPLITS = ("train", *HELD_OUT_SPLITS)


def plain(text: str) -> str:
    """Letters, digits and the signs + and - only: written anew, not with the code under test."""
    return re.sub(r"[^\w+-]", "", text.lower())


def prompts(row: Row) -> list[str]:
    return [m["content"] for m in row["messages"] if m["role"] == "user"]


def replies(row: Row) -> list[str]:
    return [m["content"] for m in row["messages"] if m["role"] == "assistant"]


def system(row: Row) -> str:
    first = row["messages"][0]
    return first["content"] if first["role"] == "system" else ""


def of(family: str, split: str | None = None) -> list[Row]:
    return [
        row for row in ROWS if row["family"] == family and (split is None or row["split"] == split)
    ]


def test_rows_are_conversations_of_one_to_four_turns():
    for row in ROWS:
        assert set(row) == {"messages", "family", "split"}
        roles = [message["role"] for message in row["messages"]]
        turns = len(prompts(row))
        assert roles == ["system"] * bool(system(row)) + ["user", "assistant"] * turns
        assert 1 <= turns <= 4
        for text in (message["content"] for message in row["messages"]):
            assert text, row
            assert text == text.strip(), row
            assert "{" not in text, row


def test_there_is_enough_to_learn_and_to_measure():
    test_rows = [row for row in ROWS if row["split"] == "test"]
    families = Counter(row["family"] for row in test_rows)
    turns = Counter(len(prompts(row)) for row in test_rows)
    assert len(ROWS) >= 10_000
    assert families.keys() == {row["family"] for row in ROWS}
    assert len(families) >= 30
    assert min(families.values()) >= 20, families
    assert all(turns[number] >= 300 for number in (1, 2, 3, 4)), turns
    assert sum(bool(system(row)) for row in test_rows) >= 300


def test_a_tenth_is_for_testing_and_a_twentieth_for_validation():
    splits = Counter(row["split"] for row in ROWS)
    assert set(splits) == set(SPLITS)
    assert splits["test"] / len(ROWS) == pytest.approx(0.10, abs=0.02)
    assert splits["validation"] / len(ROWS) == pytest.approx(0.05, abs=0.02)


def test_no_two_conversations_of_different_splits_are_the_same_before_their_last_reply():
    """Whatever the case, punctuation and spacing, and at whatever turn of the other."""
    taught = set()
    for row in ROWS:
        if row["split"] == "train":
            before = plain(system(row))
            for prompt, reply in zip(prompts(row), replies(row), strict=True):
                before += f" {plain(prompt)}"
                taught.add(before)
                before += f" {plain(reply)}"
    for row in ROWS:
        if row["split"] != "train":
            texts = [message["content"] for message in row["messages"][:-1]]
            before = " ".join(map(plain, texts if system(row) else ["", *texts]))
            assert before not in taught, row


def test_a_held_out_question_is_in_no_conversation_of_another_split():
    """The first prompt of every conversation is one that its split alone has."""
    splits = defaultdict(set)
    for question in questions():
        splits[plain(question.prompt)].add(question.split)
    assert all(len(found) == 1 for found in splits.values())
    for row in ROWS:
        for number, (prompt, reply) in enumerate(zip(prompts(row), replies(row), strict=True)):
            if system(row) and reply.startswith("My name is "):
                continue  # the answer is another, because of the system text
            assert splits.get(plain(prompt), {row["split"]}) == {row["split"]}, row
            if number == 0 and row["split"] != "train":
                assert plain(prompt) in splits, row


def test_held_out_operands_never_occur_in_training_in_either_order():
    pairs = defaultdict(set)
    for row in ROWS:
        for prompt, reply in zip(prompts(row), replies(row), strict=True):
            if re.match(r"\d+ \+ \d+ = ", reply):
                pairs[row["split"]].add(frozenset(re.findall(r"\d+", prompt) or [reply]))
    for one, other in (("train", "test"), ("train", "validation"), ("validation", "test")):
        assert len(pairs[one]) > 50
        both = {p for p in pairs[one] & pairs[other] if all(n.isdigit() for n in p)}
        assert not both


def test_held_out_numbers_never_occur_in_training_in_another_phrasing():
    answers = defaultdict(set)
    for row in ROWS:
        for reply in replies(row):
            if match := re.match(r"(\d+) is (even|odd)\.", reply):
                answers[row["split"]].add(match[1])
    assert not answers["train"] & answers["test"]
    assert not answers["train"] & answers["validation"]


def test_the_answers_of_the_computed_families_are_right():
    for question in (*questions(), *same_of_others()):
        numbers = [int(number) for number in re.findall(r"\d+", question.response)]
        match question.family:
            case "addition":
                assert numbers[0] + numbers[1] == numbers[2]
            case "even_odd":
                assert question.response.endswith(("even.", "odd.")[numbers[0] % 2])


def of_tables(asked) -> list[tuple[Question, str]]:
    return [(q, q.split) for q in asked if q.family not in computed.COMPUTED]


@pytest.mark.parametrize("asked", [questions, same_of_others])
def test_every_tested_fact_and_phrasing_is_taught_but_never_together(asked):
    facts, phrasings, both = defaultdict(set), defaultdict(set), defaultdict(set)
    for question, split in of_tables(asked()):
        facts[split].add((question.family, question.fact))
        phrasings[split].add((question.kind, question.phrasing))
        both[split].add((question.kind, question.fact, question.phrasing))
    for split in HELD_OUT_SPLITS:
        assert both[split]
        assert facts[split] <= facts["train"]
        assert phrasings[split] <= phrasings["train"]
        assert not both[split] & both["train"]


def test_every_fact_of_a_table_is_asked_in_at_least_eight_ways():
    ways = Counter((question.family, question.fact) for question, _ in of_tables(questions()))
    assert min(ways.values()) >= 8


def test_every_phrasing_of_a_computed_family_is_taught():
    taught, tested = set(), set()
    for question in questions():
        if question.family in computed.COMPUTED:
            train = question.split == "train"
            (taught if train else tested).add((question.family, question.phrasing))
    assert tested <= taught


def test_what_asks_the_same_of_another_follows_a_question_of_its_kind():
    kinds = {plain(q.prompt): q.kind for q in questions()}
    others = defaultdict(set)
    for question in same_of_others():
        others[plain(question.prompt), question.response].add(question.kind)
    for row in of("follow_up/another"):
        before, last = prompts(row)[-2:]
        assert kinds[plain(before)] in others[plain(last), replies(row)[-1]], row


def test_follow_ups_refer_to_the_turn_before():
    for row in of("follow_up/repeat"):
        assert replies(row)[-1] == replies(row)[-2]
    topics = {(plain(q.prompt), q.response): q.about for q in (*questions(), *same_of_others())}
    for row in of("follow_up/recall"):
        assert (
            replies(row)[-1]
            == f"You asked about {topics[plain(prompts(row)[-2]), replies(row)[-2]]}."
        )
    for row in of("follow_up/capitals"):
        assert replies(row)[-1] == replies(row)[-2].upper() != replies(row)[-2]
    for row in of("follow_up/one_word"):
        word = replies(row)[-1]
        assert " " not in word
        assert word in replies(row)[-2]
    for row in of("follow_up/my_name"):
        name = re.fullmatch(r"Your name is (\w+)\.", replies(row)[-1])[1]
        assert any(name.lower() in prompt.lower() for prompt in prompts(row)[:-1]), row


def test_system_texts_change_every_answer_or_none():
    for row in of("system/one_word"):
        assert all(" " not in reply for reply in replies(row)), row
    for row in of("system/capitals"):
        assert all(reply == reply.upper() for reply in replies(row)), row
    for row in of("system/ending"):
        word = re.search(r'"(.+)"', system(row))[1]
        assert all(reply.endswith(f" {word}") for reply in replies(row)), row
    for row in of("system/name"):
        name = re.search(r"My name is (\w+)\.", " ".join(replies(row)))[1]
        assert name in system(row)


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
    assert json.loads(output) == list(ROWS)


def test_two_rows_that_ask_the_same_are_refused(monkeypatch):
    first = Question("a", "1", (), "", "What is it?", "A cat.")
    second = Question("b", "2", (), "", "what is it", "A dog.")
    monkeypatch.setattr(sample, "questions", lambda: (first, second))
    with pytest.raises(ValueError, match=r"what is it.*asks the same as .What is it"):
        sample_rows.__wrapped__()  # not what is kept of the first call


def test_prompts_typed_in_a_hurry():
    assert hurried("What's 3 + 4, please?") == "whats 3 + 4 please"
    assert hurried("7: even or odd?") == "7 even or odd"


def test_normalised_prompts_differ_only_when_the_question_differs():
    assert normalised("What's the CAPITAL of  Peru?") == normalised("whats the capital of peru")
    assert normalised("What is 5 + 2?") != normalised("What is 5 - 2?")
