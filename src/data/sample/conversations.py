"""Questions become conversations of one to four turns, by a program that draws by hashes.

Each conversation leads to its last turn, the target; unrelated questions of the same split come
before it. A target is a question, a question that needs one of its kind before it ("And of
Spain?"), another follow-up, or a question under a system text that matters.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

from src.data.sample.follow_ups import FOLLOW_UPS, Turn
from src.data.sample.questions import Question, questions, same_of_others
from src.data.sample.split import pick, share
from src.data.sample.systems import (
    NAME_AT_ONCE,
    NAME_SHARE,
    NEUTRAL_SHARE,
    SYSTEMS,
    neutral,
    not_by_name,
    your_name,
)

MAX_TURNS = 4
TURN_SHARES = (0.40, 0.27, 0.20, 0.13)  # of a question as first, second, ... turn
EVEN_SHARE = 0.6  # of the other turns: drawn from all families alike, not from all questions
ANOTHER_SHARE = 0.35  # of the other turns that ask the same of another subject


class Draft(NamedTuple):
    """A conversation: its family is that of its last turn."""

    family: str
    split: str
    turns: tuple[Turn, ...]
    system: str = ""


def conversations() -> Iterator[Draft]:
    """Yield all conversations."""
    for split in ("train", "validation", "test"):
        yield from _Split(split).drafts()


class _Split:
    """The questions of one split."""

    def __init__(self, split: str):
        self.split = split
        self.questions = [question for question in questions() if question.split == split]
        self.others = [question for question in same_of_others() if question.split == split]
        self.of_kind: dict[str, list[Question]] = {}
        for question in self.questions:
            self.of_kind.setdefault(question.kind, []).append(question)
        of_family: dict[str, list[Question]] = {}
        for question in self.questions:
            of_family.setdefault(question.family, []).append(question)
        self.of_family = list(of_family.values())
        self.others_of_kind: dict[str, list[Question]] = {}
        for question in self.others:
            self.others_of_kind.setdefault(question.kind, []).append(question)

    def drafts(self) -> Iterator[Draft]:
        for question in self.questions:
            yield self._draft(question.family, [question], question.prompt)
        for question in self.others:
            first = pick(self.of_kind[question.kind], f"before {question.kind} {question.prompt}")
            if first.response != question.response:
                yield self._draft("follow_up/another", [first, question], question.unit)
        for question in self.questions:
            for name, (rule, some) in FOLLOW_UPS.items():
                for number in range(math.ceil(some)):
                    key = f"{name} {number} {question.prompt}"
                    asked = [question]
                    if share(f"other {key}") < ANOTHER_SHARE / 2:
                        asked = self._with_another(question, key)
                    if share(f"follow {key}") + number < some and (turn := rule(asked[-1], key)):
                        yield self._draft(f"follow_up/{name}", asked, key, turn)
        yield from self._system_drafts()

    def _draft(self, family: str, asked: list[Question], key: str, *further: Turn) -> Draft:
        """Return a conversation that ends with `asked` and `further`."""
        turns = [(question.prompt, question.response) for question in asked] + [*further]
        if family == "follow_up/my_name":
            between = self._before(1 + (share(f"between {key}") < 0.4), key, turns)
            turns[1:1] = between if share(f"gap {key}") < 0.6 else []
        num_turns = len(turns) + _draw_turns(f"turns {key}")
        before = self._before(min(num_turns, MAX_TURNS) - len(turns), key, turns)
        system = neutral(key) if share(f"neutral {key}") < NEUTRAL_SHARE else ""
        return Draft(family, self.split, (*before, *turns), system)

    def _before(
        self,
        count: int,
        key: str,
        turns: list[Turn],
        answer: Callable[[Question], str] = lambda question: question.response,
    ) -> list[Turn]:
        """Return `count` turns of mixed topics."""
        found: list[Turn] = []
        asked = {prompt for prompt, _ in turns}
        attempt = 0
        while len(found) < count:
            attempt += 1
            pool = self.questions
            if share(f"mixed {attempt} {key}") < EVEN_SHARE:
                pool = pick(self.of_family, f"family {attempt} {key}")
            question = pick(pool, f"context {attempt} {key}")
            drawn = [question]
            if share(f"another {attempt} {key}") < ANOTHER_SHARE:
                drawn = self._with_another(question, f"{attempt} {key}")
            for question in drawn[: count - len(found)]:
                response = answer(question)
                if question.prompt in asked or not response:
                    break
                asked.add(question.prompt)
                found.append((question.prompt, response))
        return found

    def _with_another(self, question: Question, key: str) -> list[Question]:
        others = self.others_of_kind.get(question.kind)
        another = pick(others, f"of kind {key}") if others else question
        return [question] if another.response == question.response else [question, another]

    def _system_drafts(self) -> Iterator[Draft]:
        for question in self.questions:
            for name, (rule, some) in SYSTEMS.items():
                key = f"system {name} {question.prompt}"
                system, answer = rule(key)
                if share(key) < some and answer(question):
                    turns = [(question.prompt, answer(question))]
                    before = self._before(_draw_turns(f"turns {key}"), key, turns, answer)
                    yield Draft(f"system/{name}", self.split, (*before, *turns), system)
            if share(f"system name {question.prompt}") < NAME_SHARE and not_by_name(question):
                yield self._called(question)

    def _called(self, question: Question) -> Draft:
        """Return a conversation in which the system text says what the model is called."""
        key = f"called {question.prompt}"
        system, about = your_name(key)
        first = (question.prompt, question.response)
        last = (about.prompt, about.response)
        num_turns = min(_draw_turns(f"turns {key}"), MAX_TURNS - 2)
        others = self._before(num_turns, key, [first, last], not_by_name)
        # Held-out conversations begin with a held-out question.
        turns = [*others, first, last]
        if self.split == "train" and share(f"at once {key}") < NAME_AT_ONCE:
            turns = [last, first, *others]
        return Draft("system/name", self.split, tuple(turns), system)


def _draw_turns(key: str) -> int:
    """Return how many turns come before, 0 to 3."""
    value, total = share(key), 0.0
    for number, part in enumerate(TURN_SHARES):
        total += part
        if value < total:
            return number
    return MAX_TURNS - 1
