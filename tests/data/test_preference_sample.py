"""The embedded people: what they write and what they like is known."""

import math
from itertools import combinations

import numpy as np
import pytest

from src.data.report import RowReport
from src.data.sample.demonstrations import demonstration, demonstration_rows, wrong_answer
from src.data.sample.labeller import ceiling, judge, question_of, ranking
from src.data.sample.questions import Question, questions
from src.data.sources import open_source
from src.errors import UserError

QUESTION = Question("f", "u", (), "", "What is 1 + 1?", "1 + 1 = 2.")


@pytest.mark.parametrize(
    ("reply", "gold"),
    [
        ("Gladly! 1 + 1 = 2.", 3),
        ("1 + 1 = 2.", 2),
        ("Of course! 1 + 1 = 3.", 1),
        ("1 + 1 = 3.", 0),
        ("Not this again. 1 + 1 = 2.", 2 - 1 - 0.3),
        ("Gladly! 1 + 1 = 2. Many people ask me about that.", 3 - 0.6),
        ("1 + 1 = 2. " + "more " * 50 + "end.", 2 - 1),
        ("That depends.", 0),
        ("", -1),
        ("Gladly! 1 + 1 =", 0),
        ("11 + 1 = 2.", 0),
        ("1 + 1 = 2. Gladly!", 2 - 0.1),
    ],
)
def test_gold_is_a_sum_of_plain_rules(reply, gold):
    verdict = judge(QUESTION, reply, ended=True)
    assert verdict.gold == pytest.approx(gold)
    assert verdict.perfect == (gold == 3)
    cut = judge(QUESTION, reply, ended=False)
    assert cut.gold == pytest.approx(gold - verdict.finished)
    assert not cut.perfect


def test_demonstrations_are_of_unequal_quality_and_the_same_everywhere():
    verdicts = [judge(q, demonstration(q), True) for q in questions()]
    shares = {
        name: np.mean([getattr(verdict, name) for verdict in verdicts])
        for name in ("perfect", "right", "polite", "rude", "finished")
    }
    assert shares == pytest.approx(
        {"perfect": 0.10, "right": 0.58, "polite": 0.29, "rude": 0.24, "finished": 0.85}, abs=0.02
    )
    assert demonstration_rows()[0] == {
        "prompt": "Calculate 0 + 0.",
        "response": "0 + 0 = 0.",
        "family": "addition",
        "split": questions()[0].split,
    }


def test_a_wrong_answer_is_wrong_and_looks_like_the_right_one():
    found = [(q, wrong_answer(q)) for q in questions()]
    assert not any(judge(question, text, True).right for question, text in found)
    alike = [text.split()[0] == q.response.split()[0] for q, text in found]
    assert np.mean(alike) > 0.8


def test_gold_needs_only_the_prompt():
    for question in questions()[::500]:
        assert question_of(question.prompt) is question
    assert question_of("Who shaves the barber?") is None


def test_the_demonstrations_are_a_source_with_splits_of_their_own(data_config):
    config = data_config(name="demonstrations")
    report = RowReport()
    found = list(open_source(config).conversations(report))
    assert [row.turns[0][1] for _, row in found] == [r["response"] for r in demonstration_rows()]
    assert [split for split, _ in found] == [row["split"] for row in demonstration_rows()]
    assert open_source(config).fingerprint() != open_source(data_config()).fingerprint()
    with pytest.raises(UserError, match=r"data\.name=demos: .*demonstrations"):
        open_source(data_config(name="demos"))


def test_the_labeller_prefers_as_often_as_its_ceiling_says():
    golds, noise = [2.0, 1.0, 0.5, -1.0], 1.0
    draws = [ranking(golds, noise, 1, f"prompt {i}") for i in range(4000)]
    expected = ceiling(golds, noise)
    for pair, share in zip(combinations(range(4), 2), expected, strict=True):
        one, other = pair
        seen = np.mean([ranks[one] < ranks[other] for ranks in draws])
        assert seen == pytest.approx(share, abs=0.03)
        assert share == pytest.approx(1 / (1 + math.exp(-(golds[one] - golds[other]))))


def test_a_labeller_without_noise_has_ties():
    assert ranking([1, 3, 1, 0], 0, 1, "p") == [2, 1, 2, 4]
    assert ceiling([1, 1, 0], 0) == [0.5, 1.0, 1.0]


def test_a_labeller_says_the_same_again():
    assert ranking([0, 0, 0], 1, 1, "p") == ranking([0, 0, 0], 1, 1, "p")
    seeds = {tuple(ranking([0, 0, 0], 1, seed, "p")) for seed in range(20)}
    prompts = {tuple(ranking([0, 0, 0], 1, 1, f"p {i}")) for i in range(20)}
    assert min(len(seeds), len(prompts)) > 3
