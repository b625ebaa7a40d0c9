"""The embedded corpus: small enough to read, large enough to learn from.

    *.toml + computed.py  ->  facts x phrasings  ->  rows  ->  train / validation / test

A TOML file holds one family of questions: facts (the rows of a table) and, for each kind of
question, its phrasings and its response. Each fact is asked about in up to twelve of the phrasings:

    facts      ["France", "Paris"]   ["Japan", "Tokyo"]        (columns: country, capital)
    phrasings  "What is the capital of {country}?"   "{Country}'s capital?"
    response   "The capital of {country} is {capital}."

makes four rows. `{Country}` is `{country}` with a capital first letter. A third of the prompts
are turned into what people type in a hurry: "whats the capital of japan". A family without
facts takes them from the function of its name in computed.py.

What the test split measures: in a family with a table, every test prompt is a fact in a phrasing
that training never put together; in a computed family, its operands were never seen together at
all. To extend the corpus, add a fact or a phrasing to a TOML file, or a new file.
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
    """One prompt with its answer and where they come from."""

    family: str
    unit: str  # falls wholly on one side of the split
    fact: tuple[str, ...]
    phrasing: str
    prompt: str
    response: str


def sample_rows() -> list[dict[str, str]]:
    """All rows as {"prompt", "response", "family", "split"}, in the order of the files.

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
        split = split_of(question.family, question.unit)
        rows.append(
            {
                "prompt": question.prompt,
                "response": question.response,
                "family": question.family,
                "split": split,
            }
        )
    return rows


@cache
def questions() -> tuple[Question, ...]:
    """Every fact in every phrasing, before the split."""
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
            asked = _some(phrasings, kind.get("rows_per_fact", ROWS_PER_FACT), f"{family} {fact}")
            for phrasing in asked:
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
    """At most `count` of the phrasings, chosen by a hash of `key`."""
    return sorted(phrasings, key=lambda phrasing: share(f"{key} {phrasing}"))[:count]


def hurried(text: str) -> str:
    """`text` as typed in a hurry: "What's 3 + 4, please?" becomes "whats 3 + 4 please"."""
    return " ".join(re.sub(r"[.,:;!?'\"]", "", text.lower()).split())


def normalised(text: str) -> str:
    """What remains of a prompt when case, punctuation and spacing are taken away.

    The signs + and - stay, for they change the question.
    """
    return " ".join(re.findall(r"[\w+-]+", text.lower().replace("'", "")))


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]
