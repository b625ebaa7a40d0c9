"""Figures of replies, alone and beside a reference.

ROUGE-L: the F-measure of the longest common subsequence of words (Lin 2004), by ``rouge-score``,
averaged over rows. chrF: F2 of character n-grams up to 6, of the whole corpus (Popovic 2015), by
``sacrebleu``. Distinct-n: different n-grams over all n-grams (Li et al., arXiv:1510.03055).
Repetition: the share of 4-grams that stood earlier in the same reply (seq-rep-4 of Welleck et al.,
arXiv:1908.04319).

Shape letters: N rows.
"""

import re
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np

from src.evaluation.exact_match import matches
from src.evaluation.figures import Columns, ratio
from src.evaluation.replies import Answer
from src.evaluation.rows import EvaluationRow

SHORT_ANSWER = 64  # characters: of most references, where exact match is asked for by itself
REPEATED = 4  # words of an n-gram
LIBRARIES = {"rouge_l": "rouge_score", "chrf": "sacrebleu"}  # of the extra `eval`

# A word is letters and digits; where a script has no blanks between words, each sign is one.
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\u0e00-\u0e7f]|[^\W_]+")

Answers = Sequence[Answer | None]  # None: the row was not asked


def missing_libraries() -> dict[str, str]:
    """Return the figures that cannot be computed here, and the module that each needs."""
    return {name: module for name, module in LIBRARIES.items() if find_spec(module) is None}


def has_short_answers(rows: Sequence[EvaluationRow]) -> bool:
    """Whether most references are so short that a good answer can equal them."""
    lengths = [len(row.reference) for row in rows if row.reference is not None]
    return bool(lengths) and float(np.median(lengths)) <= SHORT_ANSWER


def text_columns(
    rows: Sequence[EvaluationRow], answers: Answers, exact_match: bool
) -> dict[str, Columns]:
    """Return the columns of every figure of replies, by its name; (N, ...) each.

    A question that the model cannot read counts as answered wrongly beside its reference, and not
    at all in the figures of the replies themselves.
    """
    found = _alone(answers)
    pairs = [
        (i, answer.text, row.reference)
        for i, (row, answer) in enumerate(zip(rows, answers, strict=True))
        if answer is not None and row.reference is not None
    ]
    if not pairs:
        return found
    if exact_match:
        found |= _exact(rows, pairs)
    missing = missing_libraries()
    if "rouge_l" not in missing:
        found["rouge_l"] = _rouge(len(rows), pairs)
    if "chrf" not in missing:
        found["chrf"] = _chrf(len(rows), pairs)
    return found


Pairs = list[tuple[int, str, str]]  # number of the row, reply, reference


def _exact(rows: Sequence[EvaluationRow], pairs: Pairs) -> dict[str, Columns]:
    hits, asked = np.zeros(len(rows)), np.zeros(len(rows))
    by_label: dict[str, np.ndarray] = {}
    for i, reply, reference in pairs:
        hits[i], asked[i] = matches(reply, reference), 1
        for label in rows[i].labels:
            by_label.setdefault(label, np.zeros(len(rows)))[i] = 1
    return {
        "exact_match": ratio(hits, asked, is_share=True),
        **{
            f"exact_match/{label}": ratio(hits * mask, mask, is_share=True)
            for label, mask in sorted(by_label.items())
        },
    }


def words(text: str) -> list[str]:
    """Return the words of a text in lower case, without punctuation."""
    return WORD.findall(text.lower())


class _Words:
    """``words``, as rouge-score asks for it; its own tokenizer drops all but ASCII."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)


def _rouge(num_rows: int, pairs: Pairs) -> Columns:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], tokenizer=_Words())
    scores, asked = np.zeros(num_rows), np.zeros(num_rows)
    for i, reply, reference in pairs:
        scores[i] = scorer.score(reference, reply)["rougeL"].fmeasure
        asked[i] = 1
    return ratio(scores, asked, is_share=True)


def _chrf(num_rows: int, pairs: Pairs) -> Columns:
    from sacrebleu.metrics.chrf import CHRF

    counts = np.zeros((num_rows, 18))
    # The counts that sacrebleu itself sums for a corpus and draws again for its intervals.
    found = CHRF()._extract_corpus_statistics([p[1] for p in pairs], [[p[2] for p in pairs]])
    counts[[p[0] for p in pairs]] = found
    return Columns(counts, form="chrf")


def _alone(answers: Answers) -> dict[str, Columns]:
    asked = np.array([a is not None and a.was_asked for a in answers], dtype=float)
    texts = [a.text if a is not None and a.was_asked else "" for a in answers]
    said = [words(text) for text in texts]
    tokens = np.array([(a.num_tokens if a else None) or 0 for a in answers])
    counted = np.array([a is not None and a.num_tokens is not None for a in answers], dtype=float)
    ended = np.array([a is not None and a.stop_reason in ("end", "stop") for a in answers])
    empty = np.array([not text.strip() for text in texts]) * asked
    found = {
        "ended": ratio(ended, asked, is_share=True),
        "empty": ratio(empty, asked, is_share=True),
        "reply_words": ratio(np.array([len(each) for each in said]), asked),
        "repetition": ratio(*_repetition(said), is_share=True),
        "distinct_1": ratio(*_distinct(said, 1)),
        "distinct_2": ratio(*_distinct(said, 2)),
    }
    if counted.any():
        found["reply_tokens"] = ratio(tokens, counted)
    return found


def _grams(words_said: list[str], size: int) -> list[tuple[str, ...]]:
    return list(zip(*(words_said[start:] for start in range(size)), strict=False))


def _repetition(said: list[list[str]]) -> tuple[np.ndarray, np.ndarray]:
    """Return repeated 4-grams and all 4-grams of each reply (N,)."""
    grams = [_grams(each, REPEATED) for each in said]
    counts = np.array([len(each) for each in grams], dtype=float)
    return counts - [len(set(each)) for each in grams], counts


def _distinct(said: list[list[str]], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return each reply's share of the different n-grams of all replies, and its n-grams (N,).

    An n-gram that stands c times counts 1 / c wherever it stands, so that the sum over rows is the
    number of different ones. Its interval holds c fixed: drawing rows again would repeat whole
    replies, and so make any set of replies look less diverse than it is.
    """
    grams = [_grams(each, size) for each in said]
    counts = Counter(gram for each in grams for gram in each)
    return (
        np.array([sum(1 / counts[gram] for gram in each) for each in grams]),
        np.array([len(each) for each in grams], dtype=float),
    )
