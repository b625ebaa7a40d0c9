"""Demonstrations of unequal quality: each question answered once, by a simulated person.

One in ten is perfect: right, polite, finished and no word too many. Others are wrong or evasive,
rude, long-winded or cut off, as those of people are; fine-tuning imitates them all. What is drawn
for a question is a function of its prompt.
"""

import re
from functools import cache
from typing import Any

from src.data.sample.manners import (
    CUT_SHARE,
    EVASIVE,
    EVASIVE_SHARE,
    FILLER,
    FILLER_SHARE,
    MOST_FILLERS,
    POLITE,
    POLITE_SHARE,
    RUDE,
    RUDE_SHARE,
    WRONG_SHARE,
)
from src.data.sample.questions import Question, filled, questions
from src.data.sample.split import pick, share

ATTEMPTS = 40  # to find another fact that gives another answer


@cache
def demonstration_rows() -> tuple[dict[str, Any], ...]:
    """Return a row for each question: {"prompt", "response", "family", "split"}.

    Made once in a process: nobody may change a row.
    """
    return tuple(
        {
            "prompt": question.prompt,
            "response": demonstration(question),
            "family": question.family,
            "split": question.split,
        }
        for question in questions()
    )


def demonstration(question: Question) -> str:
    """Return what a person of unequal quality answers."""
    key = f"demonstration {question.prompt}"
    kind, manner = share(f"kind {key}"), share(f"manner {key}")
    if kind < EVASIVE_SHARE:
        text = pick(EVASIVE, f"evasive {key}")
    elif kind < EVASIVE_SHARE + WRONG_SHARE:
        text = wrong_answer(question)
    else:
        text = question.response
    if manner < POLITE_SHARE:
        text = pick(POLITE, f"polite {key}") + text
    elif manner < POLITE_SHARE + RUDE_SHARE:
        text = pick(RUDE, f"rude {key}") + text
    for number in range(MOST_FILLERS):
        if share(f"more {number} {key}") >= FILLER_SHARE:
            break
        text += pick(FILLER, f"filler {number} {key}")
    if share(f"cut {key}") < CUT_SHARE:
        words = text.split(" ")
        kept = int(len(words) * (0.3 + 0.6 * share(f"where {key}")))
        text = " ".join(words[: max(1, kept)]).rstrip(".!?")
    return text


def wrong_answer(question: Question) -> str:
    """Return an answer that is right for another fact, with what was asked about left in place."""
    facts = _facts(question.family)
    asked, told = (
        {name.lower() for name in re.findall(r"{(\w+)}", text)}
        for text in (question.phrasing, question.template)
    )
    fields = dict(question.fields)
    changing = (told - asked) or told
    for attempt in range(ATTEMPTS):
        other = dict(pick(facts, f"wrong {attempt} {question.prompt}"))
        mixed = fields | {name: other.get(name, fields[name]) for name in changing}
        text = filled(question.template, mixed)
        if text != question.response:
            return text
    others = [q.response for q in questions() if q.response != question.response]
    return pick(others, f"other {question.prompt}")


@cache
def _facts(family: str) -> tuple[tuple[tuple[str, str], ...], ...]:
    return tuple(dict.fromkeys(q.fields for q in questions() if q.family == family))
