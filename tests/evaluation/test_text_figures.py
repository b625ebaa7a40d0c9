"""Figures of replies: those of the libraries, sums over rows."""

import numpy as np
import pytest

from src.evaluation import text_figures
from src.evaluation.replies import UNREADABLE, Answer
from src.evaluation.rows import EvaluationRow
from src.evaluation.text_figures import has_short_answers, text_columns, words
from src.talk.messages import Message

REFERENCES = ("The capital of France is Paris.", "4", "Es ist drei Uhr.", "A cat sat on the mat.")
REPLIES = ("The capital of Spain is Madrid.", "4", "", "The cat sat on a mat, on a mat, on a mat.")


def rows(references=REFERENCES, labels=None) -> list[EvaluationRow]:
    labels = labels or [["turn_1"]] * len(references)
    return [
        EvaluationRow([Message("user", "?")], reference, None, names)
        for reference, names in zip(references, labels, strict=True)
    ]


def answers(texts=REPLIES) -> list[Answer]:
    return [Answer(text, "end", len(text)) for text in texts]


def test_chrf_is_sacrebleus_of_the_whole_corpus():
    sacrebleu = pytest.importorskip("sacrebleu", reason="the extra eval is not installed")
    found = text_columns(rows(), answers(), exact_match=False)["chrf"].figure()
    assert found == pytest.approx(sacrebleu.corpus_chrf(list(REPLIES), [list(REFERENCES)]).score)


@pytest.mark.parametrize(("reply", "reference"), list(zip(REPLIES, REFERENCES, strict=True)))
def test_chrf_of_a_row_is_sacrebleus_of_the_sentence(reply, reference):
    sacrebleu = pytest.importorskip("sacrebleu", reason="the extra eval is not installed")
    found = text_columns(rows([reference]), answers([reply]), exact_match=False)["chrf"].figure()
    assert found == pytest.approx(sacrebleu.corpus_chrf([reply], [[reference]]).score)


def test_rouge_l_is_rouge_scores_mean_over_rows():
    scorer = pytest.importorskip("rouge_score.rouge_scorer", reason="eval is not installed")
    theirs = scorer.RougeScorer(["rougeL"])
    expected = [
        theirs.score(reference, reply)["rougeL"].fmeasure
        for reference, reply in zip(REFERENCES, REPLIES, strict=True)
    ]
    found = text_columns(rows(), answers(), exact_match=False)["rouge_l"]
    assert found.figure() == pytest.approx(np.mean(expected))


def test_rouge_l_reads_other_scripts_than_latin():
    pytest.importorskip("rouge_score", reason="the extra eval is not installed")
    texts = ["Москва столица", "東京です", "สวัสดี"]
    assert text_columns(rows(texts), answers(texts), False)["rouge_l"].figure() == 1.0
    assert words("Don't stop: 東京!") == ["don", "t", "stop", "東", "京"]


def test_exact_match_counts_by_label_and_takes_unread_questions_for_wrong():
    labels = [["turn_1", "a"], ["turn_1", "b"], ["turn_2", "b"], ["turn_2", "b"]]
    given = [*answers()[:3], UNREADABLE]
    found = text_columns(rows(labels=labels), given, exact_match=True)
    assert found["exact_match"].figure() == 0.25
    assert found["exact_match/b"].figure() == pytest.approx(1 / 3)
    assert found["exact_match/turn_2"].figure() == 0.0
    assert found["ended"].values[:, 1].sum() == 3  # a question that was not read has no reply


def test_white_space_at_the_ends_does_not_count():
    assert text_columns(rows(["4"]), answers([" 4\n"]), True)["exact_match"].figure() == 1.0


def test_rates_of_replies():
    given = [Answer("a b", "end", 3), Answer("a b", "length", 5), Answer("", "end", 0), None]
    found = text_columns(rows(), given, exact_match=False)
    assert found["ended"].figure() == pytest.approx(2 / 3)
    assert found["empty"].figure() == pytest.approx(1 / 3)
    assert found["reply_words"].figure() == pytest.approx(4 / 3)
    assert found["reply_tokens"].figure() == pytest.approx(8 / 3)
    assert found["distinct_1"].figure() == 2 / 4  # a and b, of four words
    assert found["distinct_2"].figure() == 1 / 2


def test_repetition_is_the_share_of_4_grams_that_came_before():
    once = text_columns(rows(["x"]), answers(["a b c d e f"]), False)["repetition"]
    loop = text_columns(rows(["x"]), answers(["a b " * 10]), False)["repetition"]
    assert once.figure() == 0.0
    assert loop.figure() == (17 - 2) / 17


def test_rows_without_a_reference_have_figures_of_the_reply_alone():
    found = text_columns(rows([None]), answers(["Hi."]), exact_match=True)
    assert "exact_match" not in found
    assert "chrf" not in found
    assert found["reply_words"].figure() == 1.0


def test_exact_match_is_for_short_answers():
    assert has_short_answers(rows())
    assert not has_short_answers(rows(["a long answer " * 10] * 3))
    assert not has_short_answers(rows([None]))


def test_without_the_extra_its_figures_are_left_out(monkeypatch):
    monkeypatch.setattr(text_figures, "find_spec", lambda name: None)
    assert text_figures.missing_libraries() == {"rouge_l": "rouge_score", "chrf": "sacrebleu"}
    found = text_columns(rows(), answers(), exact_match=True)
    assert "exact_match" in found
    assert not {"rouge_l", "chrf"} & found.keys()
