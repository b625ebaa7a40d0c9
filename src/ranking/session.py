"""Replies are ranked one prompt after another, every tenth of them twice."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from src.data.prompts import context_of_row
from src.ranking.draws import Drawn
from src.ranking.labellers import Labeller
from src.ranking.ranks import no_ranking, places
from src.ranking.records import Records

AGAIN_EVERY = 10  # rankings, one of which is asked for a second time
AGAIN_AFTER = 5  # of the newest are never asked again: a person still knows them


@dataclass
class Counts:
    """What happened in one session."""

    ranked: int = 0
    alike: int = 0  # prompts without two different replies: nothing to rank


@dataclass(frozen=True)
class Question:
    """Replies as a person sees them: equal ones once, in an order that tells nothing.

    Attributes:
        item: the prompt and its replies.
        shown: the replies, each with whether it ended.
        row: what was ranked before, where this is the second time; a person is not told.
    """

    item: Drawn
    shown: tuple[tuple[str, bool], ...]
    row: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, item: Drawn, key: str, row: Mapping[str, Any] | None = None) -> "Question":
        """Return the question about an item; ``key`` decides the order."""
        shown = list(dict.fromkeys(zip(item.replies, item.ended, strict=True)))
        random.Random(key).shuffle(shown)
        return cls(item, tuple(shown), row)

    def ranks_of(self, ranks: Sequence[int]) -> list[int]:
        """Return the ranks (replies,) of the item's replies, by those of the ``shown`` ones."""
        of = dict(zip(self.shown, ranks, strict=True))
        found = zip(self.item.replies, self.item.ended, strict=True)
        return [of[pair] for pair in found]


class Session:
    """What one person is asked, at a terminal or on the page: blind and shuffled.

    Args:
        drawn: replies to prompts that have not been ranked.
        records: where rankings go; each is on disk before the next question.
        seed: of the shuffling.

    Attributes:
        failure: what ended the drawing before its end, which is raised wherever the next replies
            are needed; None: nothing.
    """

    def __init__(self, drawn: Iterator[Drawn], records: Records, seed: int):
        self.drawn = drawn
        self.records = records
        self.seed = seed
        self.counts = Counts()
        self.failure: BaseException | None = None
        self.done: list[tuple[Question, bool]] = []  # and whether it was skipped
        self.waiting: list[Drawn] = []
        self.current: Question | None = None
        self.asks_again = owed_row(records, seed) is not None

    def question(self) -> Question | None:
        """Return what is asked now; None: all is ranked."""
        if self.current is None:
            self.current = self._second() if self.asks_again else self._next()
        return self.current

    def rank(self, ranks: Sequence[int]) -> None:
        """Write down the ranks of the replies as they are shown, 1 is best, and go on.

        Raises:
            UserError: they are not a whole number from 1 for each reply.
        """
        question = self.question()
        assert question is not None
        count = len(question.shown)
        if len(ranks) != count or not all(rank > 0 for rank in ranks):
            raise no_ranking(" ".join(map(str, ranks)), count)
        own = question.ranks_of(places(ranks))
        if question.row is not None:
            self.records.add_again(question.row, own)
        else:
            self.records.add(question.item, own)
            self.counts.ranked += 1
        self._go_on(question, was_skipped=False)

    def skip(self) -> None:
        """Pass over the replies, for good, and go on."""
        question = self.question()
        assert question is not None
        if question.row is not None:
            self.records.add_again(question.row, None)
        else:
            self.records.skip(question.item)
        self._go_on(question, was_skipped=True)

    def undo(self) -> bool:
        """Take back what was said last, here, and ask that again; False: there is nothing."""
        if not self.done:
            return False
        last, was_skipped = self.done[-1]
        if last.row is not None:
            self.records.undo_again()
        else:
            self.records.undo(last.item)
            self.counts.ranked -= not was_skipped
        self.done.pop()
        if self.current is not None and self.current.row is None:
            self.waiting.append(self.current.item)
        if last.row is None:
            self.waiting.append(last.item)
        self.current, self.asks_again = None, last.row is not None
        return True

    @property
    def num_passed(self) -> int:
        """The prompts that have been ranked or skipped here, or had nothing to rank."""
        return self.counts.alike + sum(question.row is None for question, _ in self.done)

    def _go_on(self, question: Question, was_skipped: bool) -> None:
        self.done.append((question, was_skipped))
        self.current = None
        is_first = question.row is None and not was_skipped
        self.asks_again = is_first and self._again_row() is not None

    def _draw(self) -> Drawn | None:
        if self.waiting:
            return self.waiting.pop()
        if self.failure is not None:  # after it an iterator says that it is at its end
            raise self.failure
        try:
            return next(self.drawn, None)
        except BaseException as error:
            self.failure = error
            raise

    def _next(self) -> Question | None:
        while (item := self._draw()) is not None:
            if not _is_alike(item):
                key = f"{self.seed} {len(self.records.rows)} {item.context.prompt}"
                return Question.of(item, key)
            self.counts.alike += 1
            self.records.skip(item)
        return None

    def _second(self) -> Question:
        row = self._again_row()
        assert row is not None
        return Question.of(_drawn_of(row), f"again {self.seed} {len(self.records.rows)}", row)

    def _again_row(self) -> dict[str, Any] | None:
        return again_row(self.records, self.seed)


def rank_all(drawn: Iterator[Drawn], labeller: Labeller, records: Records, seed: int) -> Counts:
    """Let a program rank; what it ranks twice has another seed the second time."""
    counts = Counts()
    if (row := owed_row(records, seed)) is not None:
        records.add_again(row, _ranks(_drawn_of(row), labeller, seed + 1))
    for item in drawn:
        if _is_alike(item):
            counts.alike += 1
            records.skip(item)
            continue
        records.add(item, _ranks(item, labeller, seed))
        counts.ranked += 1
        if (row := again_row(records, seed)) is not None:
            records.add_again(row, _ranks(_drawn_of(row), labeller, seed + 1))
    return counts


def outcome(counts: Counts, records: Records) -> str:
    """Return in a line what a session has come to, and how far a person agrees with themselves."""
    agreed, num_pairs = records.agreement()
    return (
        f"{counts.ranked:,} ranked"
        + (f", {counts.alike:,} without two different replies left out" if counts.alike else "")
        + f"; {len(records.rows):,} in {records.path}"
        + (f"; asked twice, {agreed:.0%} of {num_pairs:,} pairs agree" if num_pairs else "")
    )


def _ranks(item: Drawn, labeller: Labeller, seed: int) -> list[int]:
    """Return a program's ranks of an item's replies; it sees equal ones once, so that they tie."""
    distinct = list(dict.fromkeys(zip(item.replies, item.ended, strict=True)))
    replies, ended = zip(*distinct, strict=True)
    ranks = labeller(replace(item, replies=replies, ended=ended), seed)
    of = dict(zip(distinct, ranks, strict=True))
    found = [of[pair] for pair in zip(item.replies, item.ended, strict=True)]
    return places(found)


def _is_alike(item: Drawn) -> bool:
    return len(set(zip(item.replies, item.ended, strict=True))) < 2


def again_row(records: Records, seed: int) -> dict[str, Any] | None:
    """Return one of the ranker's own ten rankings before the last five, by chance.

    None: they are no multiple of ten.
    """
    rows = records.own_rows
    if not rows or len(rows) % AGAIN_EVERY:
        return None
    end = min(AGAIN_AFTER + AGAIN_EVERY, len(rows))
    number = random.Random(f"{seed} {len(records.rows)}").randrange(AGAIN_AFTER, end)
    return rows[-1 - number]


def owed_row(records: Records, seed: int) -> dict[str, Any] | None:
    """Return the ranking whose second one was not given before the program ended; None: none."""
    row = again_row(records, seed)
    return row if records.noted and not records.knows_again(row) else None


def _drawn_of(row: Mapping[str, Any]) -> Drawn:
    ended = tuple(row["ended"])
    return Drawn(context_of_row(row), row.get("family", ""), tuple(row["replies"]), ended)
