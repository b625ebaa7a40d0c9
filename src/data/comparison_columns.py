"""Which columns of a row hold replies and what people thought of them, and what they say.

    pair             chosen, rejected        each a text, a list of messages or a transcript
    ranking          replies, ranks          1 is best, equal is a tie
    scores           replies, scores         higher is better
    best of n        replies, best           the number of the best, from 0, or its text
    one score a row  response, score         rows of one prompt are gathered

``ended`` beside any of them: whether each reply ended; without it all did. Replies may be objects,
``{"text": ..., "rank" or "score": ..., "ended": ...}``.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from src.data.content import UnusableRow, listed, shown
from src.data.messages import is_conversation, parse_list
from src.data.roles import plain

CHOSEN = (
    *("chosen", "chosenresponse", "responsechosen", "preferred", "preferredresponse"),
    *("accepted", "acceptedresponse", "better", "betterresponse", "winning", "yw"),
)
REJECTED = (
    *("rejected", "rejectedresponse", "responserejected", "dispreferred", "dispreferredresponse"),
    *("nonpreferred", "worse", "worseresponse", "losing", "yl"),
)
REPLIES = (
    *("replies", "responses", "candidates", "completions", "answers", "generations"),
    *("outputs", "samples"),
)
RANKS = ("ranks", "rank", "rankings")
SCORES = ("scores", "score", "ratings", "rating", "rewards", "reward", "overallscore", "label")
BEST = ("best", "bestindex", "choice", "bestreply", "bestresponse")
ENDED = ("ended", "finished")
TEXTS = ("text", "content", "value", "response", "reply", "completion", "answer")
SIDES = ("chosen", "rejected")
GROUPS: dict[str, tuple[str, ...]] = {
    "chosen": CHOSEN,
    "rejected": REJECTED,
    "replies": REPLIES,
    "ranks": RANKS,
    "scores": SCORES,
    "best": BEST,
    "ended": ENDED,
}


class Replies(NamedTuple):
    """What a row says of its replies.

    Args:
        values: a text, a message or a list of messages each.
        ranks: lower is better; None: of one reply, whose ``score`` it has.
        ended: whether each ended; None: it is not said.
        score: of one reply.
        used: the columns.
    """

    values: list[Any]
    ranks: list[float] | None
    ended: list[bool] | None
    used: set[str]
    score: float = 0.0


def comparison_columns(names: Iterable[str], mapping: Mapping[str, str]) -> dict[str, str]:
    """Return the column of each of ``GROUPS`` that is there; ``mapping`` is the person's own."""
    names = list(names)
    found = {role: column for role, column in mapping.items() if column in names}
    by_name: dict[str, str] = {}
    for name in names:
        by_name.setdefault(plain(str(name)), name)
    for role, known in GROUPS.items():
        column = next((by_name[name] for name in known if name in by_name), None)
        if role not in found and column is not None and column not in found.values():
            found[role] = column
    return found


def row_replies(
    row: Mapping[str, Any], columns: Mapping[str, str], response: str | None
) -> Replies:
    """Return the replies of a row.

    Args:
        row: the row.
        columns: those of ``comparison_columns``.
        response: the column of a single response.

    Raises:
        UnusableRow: it holds no replies with a preference, or one that does not fit.
    """
    value = {
        role: _parsed(row[name], role in SIDES)
        for role, name in columns.items()
        if row[name] is not None
    }
    if "chosen" in value and "rejected" in value:
        used = {columns["chosen"], columns["rejected"]}
        sides = [_several(value["chosen"], row), _several(value["rejected"], row)]
        ranks = [float(rank) for rank, side in enumerate(sides) for _ in side]
        replies = [reply for side in sides for reply in side]
        return _with_ended(Replies(replies, ranks, None, used), value, columns)
    if isinstance(value.get("replies"), (list, tuple)):
        return _ranked(list(value["replies"]), value, columns)
    if response is not None and "scores" in value and row[response] is not None:
        used = {response, columns["scores"]}
        score = _number(value["scores"], columns["scores"])
        return _with_ended(Replies([row[response]], None, None, used, score), value, columns)
    raise UnusableRow("no_comparison", f"columns {listed(row)}")


def _ranked(replies: list[Any], value: Mapping[str, Any], columns: Mapping[str, str]) -> Replies:
    used = {columns["replies"]}
    if replies and all(isinstance(reply, Mapping) for reply in replies):
        replies, own = _objects(replies)
        value = {**own, **value}
    found = next((role for role in ("ranks", "scores", "best") if role in value), None)
    if found is None:
        raise UnusableRow("no_ranks", f"{len(replies)} replies")
    if found in columns:
        used.add(columns[found])
    name = columns.get(found, found)
    if found == "best":
        best = _best(value["best"], replies, name)
        ranks = [float(number != best) for number in range(len(replies))]
    else:
        numbers = value[found]
        if not isinstance(numbers, (list, tuple)) or len(numbers) != len(replies):
            raise UnusableRow(
                "ranks_do_not_match", f"{len(replies)} replies, {name}: {shown(numbers)}"
            )
        sign = 1 if found == "ranks" else -1
        ranks = [sign * _number(number, name) for number in numbers]
    return _with_ended(Replies(replies, ranks, None, used), value, columns)


def _objects(replies: list[Any]) -> tuple[list[Any], dict[str, list[Any]]]:
    """Return the replies of objects with a text, and what else each says, by role.

    Messages, which have a role, stay as they are.
    """
    by_name = [{plain(str(key)): value for key, value in reply.items()} for reply in replies]
    own: dict[str, list[Any]] = {}
    for role in ("ranks", "scores", "ended"):
        for name in GROUPS[role]:
            if role not in own and all(name in reply for reply in by_name):
                own[role] = [reply[name] for reply in by_name]
    if any("role" in reply for reply in by_name):
        return replies, own
    texts = [next((reply[name] for name in TEXTS if name in reply), None) for reply in by_name]
    if any(text is None for text in texts):
        raise UnusableRow("no_comparison", f"a reply {shown(replies[texts.index(None)])}")
    return texts, own


def _with_ended(found: Replies, value: Mapping[str, Any], columns: Mapping[str, str]) -> Replies:
    if "ended" not in value:
        return found
    flags = value["ended"]
    flags = list(flags) if isinstance(flags, (list, tuple)) else [flags]
    flags = [_TRUTH.get(str(flag).strip().casefold()) for flag in flags]
    if len(flags) != len(found.values) or None in flags:
        name = columns.get("ended", "ended")
        raise UnusableRow(
            "ended_does_not_match", f"{len(found.values)} replies, {name}: {shown(value['ended'])}"
        )
    used = found.used | ({columns["ended"]} if "ended" in columns else set())
    return found._replace(ended=[bool(flag) for flag in flags], used=used)


_TRUTH = {"true": True, "1": True, "1.0": True, "yes": True}
_TRUTH |= {"false": False, "0": False, "0.0": False, "no": False}


def _best(value: Any, replies: list[Any], name: str) -> int:
    """Return the number of the best reply, from 0."""
    if isinstance(value, str) and value in replies:
        return replies.index(value)
    number = _number(value, name)
    if number != int(number) or not 0 <= number < len(replies):
        raise UnusableRow("bad_rank", f"{name}: {shown(value)} of {len(replies)} replies")
    return int(number)


def _number(value: Any, name: str) -> float:
    """Return a rank or a score as a number; true is 1, as thumbs up are."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UnusableRow("bad_rank", f"{name}: {shown(value)}")
    return number


def _parsed(value: Any, is_reply: bool) -> Any:
    """Return a list that is written as text, as tables have it, as a list; a reply may be one."""
    if type(value) is str and value[:1] == "[" and (parsed := parse_list(value)) is not None:
        return value if is_reply and not is_conversation(parsed) else parsed
    return value


def _several(value: Any, row: Mapping[str, Any]) -> list[Any]:
    """Return the replies of one side of a pair: several texts beside a prompt are so many."""
    beside = any(plain(str(name)) == "prompt" for name in row)
    if beside and isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value):
        return list(value)
    return [value]
