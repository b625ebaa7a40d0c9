"""Replies are ranked one prompt after another, every tenth of them twice."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from src.data.comparison import Context
from src.data.prompts import context_of_row
from src.errors import UserError
from src.ranking.draws import Drawn
from src.ranking.labellers import Labeller
from src.ranking.records import Records

AGAIN_EVERY = 10  # rankings, one of which is asked for a second time
HELP = "best is 1, equal is a tie, as in 1 2 2 4; s skips, u takes the last one back, q ends"


@dataclass
class Counts:
    """What happened in one session."""

    ranked: int = 0
    alike: int = 0  # prompts whose replies were all the same: nothing to rank


def rank_all(drawn: Iterator[Drawn], labeller: Labeller, records: Records, seed: int) -> Counts:
    """Let a program rank; what it ranks twice has another seed the second time."""
    counts = Counts()
    for item in drawn:
        if _is_alike(item):
            counts.alike += 1
            continue
        records.add(item, _ranks(item, labeller, seed))
        counts.ranked += 1
        if len(records.rows) % AGAIN_EVERY == 0:
            row = _drawn_again(records, seed)
            records.add_again(row[0], _ranks(row[1], labeller, seed + 1))
    return counts


def ask_all(
    drawn: Iterator[Drawn],
    ask: Callable[[str], str],
    show: Callable[[str], None],
    records: Records,
    seed: int,
) -> Counts:
    """Let a person rank, blind and shuffled, until they end or all is ranked.

    Args:
        drawn: replies to prompts that have not been ranked.
        ask: returns what the person types; EOFError ends.
        show: prints.
        records: where rankings go.
        seed: of the shuffling.
    """
    counts = Counts()
    done: list[tuple[Drawn, bool]] = []  # what was shown here, and whether it was skipped
    show(HELP)
    waiting: list[Drawn] = []
    while True:
        item = waiting.pop() if waiting else next(drawn, None)
        if item is None:
            return counts
        if _is_alike(item):
            counts.alike += 1
            records.skip(item)
            continue
        answer = _ask(item, ask, show, f"{seed} {len(records.rows)} {item.context.prompt}")
        if answer == "q":
            return counts
        if answer == "u":
            waiting.append(item)
            if not done:
                show("there is nothing to take back")
                continue
            last, was_skipped = done.pop()
            records.undo(last)
            counts.ranked -= not was_skipped
            waiting.append(last)
            continue
        done.append((item, answer == "s"))
        if isinstance(answer, str):
            records.skip(item)
            continue
        records.add(item, answer)
        counts.ranked += 1
        if len(records.rows) % AGAIN_EVERY == 0:
            row, again = _drawn_again(records, seed)
            answer = _ask(again, ask, show, f"again {seed} {len(records.rows)}")
            if answer == "q":
                return counts
            if not isinstance(answer, str):
                records.add_again(row, answer)


def _ranks(item: Drawn, labeller: Labeller, seed: int) -> list[int]:
    """Return a program's ranks of an item's replies; it sees equal ones once, so that they tie."""
    distinct = list(dict.fromkeys(zip(item.replies, item.ended, strict=True)))
    replies, ended = zip(*distinct, strict=True)
    ranks = labeller(replace(item, replies=replies, ended=ended), seed)
    of = dict(zip(distinct, ranks, strict=True))
    found = [of[pair] for pair in zip(item.replies, item.ended, strict=True)]
    return [1 + sum(other < rank for other in found) for rank in found]


def _is_alike(item: Drawn) -> bool:
    return len(set(zip(item.replies, item.ended, strict=True))) == 1


def _drawn_again(records: Records, seed: int) -> tuple[dict[str, Any], Drawn]:
    """Return one of the last ten rankings, by chance."""
    number = random.Random(f"{seed} {len(records.rows)}").randrange(AGAIN_EVERY)
    row = records.rows[-1 - number]
    ended = tuple(row["ended"])
    drawn = Drawn(context_of_row(row), row.get("family", ""), tuple(row["replies"]), ended)
    return row, drawn


def _ask(
    item: Drawn, ask: Callable[[str], str], show: Callable[[str], None], key: str
) -> list[int] | str:
    """Return the ranks of an item's replies in their own order, or s, u or q."""
    distinct = list(dict.fromkeys(zip(item.replies, item.ended, strict=True)))
    random.Random(key).shuffle(distinct)
    show("\n" + _context_text(item.context))
    for number, (reply, ended) in enumerate(distinct, 1):
        show(f"  {number}. {reply or '(nothing)'}{'' if ended else ' ... (cut off)'}")
    while True:
        try:
            text = ask(f"ranks of 1 to {len(distinct)}: ").strip().lower()
        except EOFError:
            return "q"
        if text in ("s", "u", "q"):
            return text
        try:
            ranks = read_ranks(text, len(distinct))
        except UserError as error:
            show(f"{error}: {HELP}")
            continue
        of = dict(zip(distinct, ranks, strict=True))
        return [of[pair] for pair in zip(item.replies, item.ended, strict=True)]


def read_ranks(text: str, count: int) -> list[int]:
    """Return the ranks that a person typed, 1 is best: "1 2 2 4", "1,2,2,4" or "1224".

    Raises:
        UserError: they are not ``count`` whole numbers from 1.
    """
    words = text.replace(",", " ").split()
    if len(words) == 1 and len(words[0]) == count:
        words = list(words[0])
    if len(words) != count or not all(word.isdecimal() and int(word) > 0 for word in words):
        raise UserError(f"{text or 'nothing'} is not a rank for each of {count} replies")
    numbers = [int(word) for word in words]
    return [1 + sum(other < number for other in numbers) for number in numbers]


def _context_text(context: Context) -> str:
    turns, prompt, system, opening = context
    lines = [f"({system})"] if system else []
    lines += [opening] if opening else []
    for question, reply in turns:
        lines += [f"> {question}", reply]
    return "\n".join([*lines, f"> {prompt}"])
