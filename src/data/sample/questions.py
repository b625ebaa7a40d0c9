"""Facts times phrasings: the questions that can be asked at the beginning of a conversation."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from src.data.sample.computed import COMPUTED
from src.data.sample.split import share, split_of

HURRIED_SHARE = 1 / 3
ROWS_PER_FACT = 12  # phrasings of a fact, unless its file says otherwise

# What asks the same of another subject, after a question of its kind. A file may add its own.
SUBJECT_PHRASINGS = (
    "And {subject}?",
    "What about {subject}?",
    "How about {subject}?",
    "And what about {subject}?",
    "{Subject}?",
    "Now {subject}, please.",
)
FOLLOW_UPS_PER_FACT = 4
COMPUTED_FOLLOW_UPS = 0.3  # the share of the computed facts that follow another


class Question(NamedTuple):
    """One prompt with its answer and their origin."""

    family: str
    unit: str  # all questions of a unit are in one split
    fact: tuple[str, ...]
    phrasing: str
    prompt: str
    response: str
    kind: str = ""  # of one kind are the questions that one set of phrasings asks
    word: str = ""  # the answer in one word, where there is one
    about: str = ""  # what is asked, as "You asked about ..." says it
    template: str = ""  # of the response: fields in it are filled by the fact
    fields: tuple[tuple[str, str], ...] = ()  # by name, those of the fact and its subject

    @property
    def split(self) -> str:
        """Return "train", "validation" or "test"."""
        return split_of(self.family, self.unit)


@cache
def questions() -> tuple[Question, ...]:
    """Return every fact in each of its phrasings."""
    return tuple(question for file in _files() for question in _questions_of(file, "phrasings"))


@cache
def same_of_others() -> tuple[Question, ...]:
    """Return the questions that need one of their kind before them: "And of Spain?"."""
    return tuple(question for file in _files() for question in _questions_of(file, "follow_ups"))


def _files() -> list[Path]:
    return sorted(Path(__file__).parent.glob("*.toml"))


def _questions_of(file: Path, key: str) -> Iterator[Question]:
    table = tomllib.loads(file.read_text(encoding="utf-8"))
    family = table["family"]
    facts: list[tuple[str | None, dict[str, str]]]
    if "facts" in table:
        columns = table["columns"]
        facts = [(None, dict(zip(columns, fact, strict=True))) for fact in table["facts"]]
    else:
        facts = [*COMPUTED[family]()]
    for number, kind in enumerate(table["questions"]):
        phrasings = kind.get(key, [])
        count = kind.get("rows_per_fact", ROWS_PER_FACT)
        if key == "follow_ups":
            count = min(count, FOLLOW_UPS_PER_FACT)
            phrasings = [*phrasings, *SUBJECT_PHRASINGS] if "subject" in kind else []
        for unit, fact in facts:
            if key == "follow_ups" and unit and share(f"other {fact}") > COMPUTED_FOLLOW_UPS:
                continue
            fields = dict(fact)
            if "subject" in kind:
                fields["subject"] = kind["subject"].format(**fact)
            own = tuple(fields.items())
            fields |= {name.capitalize(): _capitalised(v) for name, v in fields.items()}
            for phrasing in _some(phrasings, count, f"{family} {fact}"):
                prompt = phrasing.format(**fields)
                yield Question(
                    family=family,
                    unit=unit or normalised(f"{number} {prompt}" if key != "phrasings" else prompt),
                    fact=tuple(fact.values()),
                    phrasing=phrasing,
                    prompt=as_typed(prompt),
                    response=kind["response"].format(**fields),
                    kind=f"{family} {number}",
                    about=kind.get("about", "").format(**fields),
                    word=_one_word(kind.get("word", "").format(**fields)),
                    template=kind["response"],
                    fields=own,
                )


def _some(phrasings: list[str], count: int, key: str) -> list[str]:
    """Return at most `count` of the phrasings, by a hash of `key`."""
    return sorted(phrasings, key=lambda phrasing: share(f"{key} {phrasing}"))[:count]


def as_typed(prompt: str) -> str:
    """Return a third of the prompts as typed in a hurry."""
    return hurried(prompt) if share(f"surface {prompt}") < HURRIED_SHARE else prompt


def hurried(text: str) -> str:
    """Return `text` as typed in a hurry: "What's 3 + 4, please?" becomes "whats 3 + 4 please"."""
    return " ".join(re.sub(r"[.,:;!?'\"]", "", text.lower()).split())


def normalised(text: str) -> str:
    """Return a prompt without case, punctuation and spacing, but with + and -."""
    return " ".join(re.findall(r"[\w+-]+", text.lower().replace("'", "")))


def filled(template: str, fields: Mapping[str, str]) -> str:
    """Return a template with its fields filled; {Country} is {country} with a capital letter."""
    return template.format(**fields, **{n.capitalize(): _capitalised(v) for n, v in fields.items()})


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


def _one_word(text: str) -> str:
    """Return an answer without its article; nothing if it has more than one word."""
    word = re.sub(r"^(an?|the) ", "", text)
    return "" if " " in word else word
