"""A comparison: the beginning of a conversation, and replies to it with their ranks."""

from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import NamedTuple

from src.data.content import UnusableRow, shown
from src.data.conversation import Conversation


class Context(NamedTuple):
    """What the replies answer: the turns so far, which are only read, and the last prompt."""

    turns: tuple[tuple[str, str], ...]
    prompt: str
    system: str = ""
    opening: str = ""

    @property
    def first_prompt(self) -> str:
        """The prompt whose hash decides the split."""
        return self.turns[0][0] if self.turns else self.prompt


class Comparison(NamedTuple):
    """Replies to one prompt.

    Args:
        context: what they answer.
        replies: texts.
        ranks: of each, 1 is best; equal is a tie.
        ended: whether each ended, or was cut off: then no end token follows.
        family: an optional label of the source.
    """

    context: Context
    replies: tuple[str, ...]
    ranks: tuple[int, ...]
    ended: tuple[bool, ...]
    family: str = ""

    @property
    def first_prompt(self) -> str:
        """The prompt whose hash decides the split."""
        return self.context.first_prompt

    def documents(self) -> list[Conversation]:
        """Return a conversation for each reply; the reply alone is taught."""
        turns, prompt, system, opening = self.context
        taught = (*(False for _ in turns), True) if turns else ()
        return [
            Conversation((*turns, (prompt, reply)), system, opening, taught, self.family)
            for reply in self.replies
        ]


class ScoredReply(NamedTuple):
    """One reply of a prompt whose others stand in rows of their own."""

    context: Context
    reply: str
    score: float
    ended: bool
    family: str = ""

    @property
    def first_prompt(self) -> str:
        """The prompt whose hash decides the split."""
        return self.context.first_prompt


def compare(
    context: Context,
    replies: Sequence[str],
    ranks: Sequence[float],
    ended: Sequence[bool],
    family: str = "",
) -> Comparison:
    """Return the comparison; ``ranks`` may be any numbers, lower is better, equal is a tie.

    Equal replies that ended alike tie: each has the mean of their ranks.

    Raises:
        UnusableRow: there is one reply, they are all the same, or none is better than another.
    """
    if len(replies) < 2:
        raise UnusableRow("one_reply", shown(context.prompt))
    pairs = list(zip(replies, ended, strict=True))
    if len(set(pairs)) == 1:
        raise UnusableRow("same_replies", shown(replies[0]))
    if len(set(pairs)) < len(pairs):
        of: dict[tuple[str, bool], list[float]] = {}
        for pair, rank in zip(pairs, ranks, strict=True):
            of.setdefault(pair, []).append(rank)
        ranks = [fmean(of[pair]) for pair in pairs]
    if len(set(ranks)) == 1:
        raise UnusableRow("no_preference", f"replies to {shown(context.prompt)}")
    places = tuple(1 + sum(other < rank for other in ranks) for rank in ranks)
    return Comparison(context, tuple(replies), places, tuple(ended), family)


class Gathering:
    """Collects scored replies, a row each, by split and prompt; all of them are in memory."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, int, Context], list[tuple[ScoredReply, str]]] = {}

    def add(self, split: str, reply: ScoredReply, place: str, source: int = 0) -> None:
        """Keep a reply that stands at ``place``."""
        self.found.setdefault((split, source, reply.context), []).append((reply, place))

    def __iter__(self) -> Iterator[tuple[str, int, str, Comparison | UnusableRow]]:
        """Yield for each prompt its split, its number of rows, the first place, the comparison."""
        for (split, _, context), members in self.found.items():
            rows = [reply for reply, _ in members]
            found: Comparison | UnusableRow
            try:
                found = compare(
                    context,
                    [row.reply for row in rows],
                    [-row.score for row in rows],
                    [row.ended for row in rows],
                    rows[0].family,
                )
            except UnusableRow as problem:
                found = problem
            yield split, len(rows), members[0][1], found
