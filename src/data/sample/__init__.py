"""The embedded corpus: small enough to read, large enough to learn from.

    *.toml + computed.py  ->  facts x phrasings  ->  rows  ->  train / validation / test

A TOML file holds one family of questions: facts (the rows of a table) and, for each kind of
question, its phrasings and its response. Each fact is asked about in up to twelve of the phrasings:

    facts      ["France", "Paris"]   ["Japan", "Tokyo"]        (columns: country, capital)
    phrasings  "What is the capital of {country}?"   "{Country}'s capital?"
    response   "The capital of {country} is {capital}."

makes four rows. `{Country}` is `{country}` with a capital first letter. A third of the prompts
look as if typed in a hurry: "whats the capital of japan". The facts of a family without a table
come from the function of its name in computed.py.

The test split measures: in a family with a table, facts in phrasings that training did not combine;
in a computed family, operands that training did not combine at all. To extend the corpus, add a
fact or a phrasing to a TOML file, or a new file.
"""

import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from src.data.sample.computed import COMPUTED
from src.data.sample.split import share, split_of

HURRIED_SHARE = 1 / 3
ROWS_PER_FACT = 12  # phrasings of a fact, unless its file says otherwise


class Question(NamedTuple):
    """One prompt with its answer and their origin."""

    family: str
    unit: str  # all questions of a unit are in one split
    fact: tuple[str, ...]
    phrasing: str
    prompt: str
    response: str


def sample_rows() -> list[dict[str, str]]:
    """Return all rows as {"prompt", "response", "family", "split"}, in the order of the files.

    `split` is "train", "validation" or "test"; the same on every machine and in every run.
    Raises ValueError when two rows ask the same thing.
    """
    seen: dict[str, Question] = {}
    rows = []
    for question in questions():
        other = seen.setdefault(normalised(question.prompt), question)
        if other is not question:
            raise ValueError(
                f"{question.prompt!r} ({question.family}) asks the same "
                f"as {other.prompt!r} ({other.family})"
            )
        row = {name: getattr(question, name) for name in ("prompt", "response", "family")}
        rows.append(row | {"split": split_of(question.family, question.unit)})
    return rows


@cache
def questions() -> tuple[Question, ...]:
    """Return every fact in each of its phrasings."""
    files = sorted(Path(__file__).parent.glob("*.toml"))
    return tuple(question for file in files for question in _questions_of(file))


def _questions_of(file: Path) -> Iterator[Question]:
    table = tomllib.loads(file.read_text(encoding="utf-8"))
    family = table["family"]
    facts: list[tuple[str | None, dict[str, str]]]
    if "facts" in table:
        columns = table["columns"]
        facts = [(None, dict(zip(columns, fact, strict=True))) for fact in table["facts"]]
    else:
        facts = [*COMPUTED[family]()]
    for kind in table["questions"]:
        phrasings = kind["phrasings"]
        for unit, fact in facts:
            fields = fact | {name.capitalize(): _capitalised(v) for name, v in fact.items()}
            count = kind.get("rows_per_fact", ROWS_PER_FACT)
            for phrasing in _some(phrasings, count, f"{family} {fact}"):
                prompt = phrasing.format(**fields)
                yield Question(
                    family=family,
                    unit=unit or normalised(prompt),
                    fact=tuple(fact.values()),
                    phrasing=phrasing,
                    prompt=hurried(prompt)
                    if share(f"surface {prompt}") < HURRIED_SHARE
                    else prompt,
                    response=kind["response"].format(**fields),
                )


def _some(phrasings: list[str], count: int, key: str) -> list[str]:
    """Return at most `count` of the phrasings, by a hash of `key`."""
    return sorted(phrasings, key=lambda phrasing: share(f"{key} {phrasing}"))[:count]


def hurried(text: str) -> str:
    """Return `text` as typed in a hurry: "What's 3 + 4, please?" becomes "whats 3 + 4 please"."""
    return " ".join(re.sub(r"[.,:;!?'\"]", "", text.lower()).split())


def normalised(text: str) -> str:
    """Return a prompt without case, punctuation and spacing, but with + and -."""
    return " ".join(re.findall(r"[\w+-]+", text.lower().replace("'", "")))


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]
