"""The best reply to each prompt, kept to learn from: rejection sampling.

The rows are conversations, ``{prompt, response}``, which SFT reads. A reply that a limit has cut is
not kept: who learns from it would learn to stop anywhere.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from src.ranking.draws import Drawn
from src.ranking.labellers import Labeller
from src.ranking.records import Records


class BestReplies(Records):
    """The file of the best replies; it goes on as rankings do."""

    @staticmethod
    def is_row(row: dict[str, Any]) -> bool:
        """Whether a row of a file is one of ours."""
        has_context = type(row.get("prompt")) is str or type(row.get("messages")) is list
        return has_context and type(row.get("response")) is str and "replies" not in row

    @staticmethod
    def columns(drawn: Drawn, ranks: list[int]) -> dict[str, Any]:
        """Return the first of the best replies."""
        return {"response": drawn.replies[ranks.index(min(ranks))]}


def keep_best(drawn: Iterator[Drawn], labeller: Labeller, records: BestReplies, seed: int) -> str:
    """Write the best reply to each prompt; return in a line what has been done."""
    kept = cut = wrong = 0
    for item in drawn:
        pairs = zip(item.replies, item.ended, strict=True)
        whole = tuple(dict.fromkeys(reply for reply, ended in pairs if ended and reply))
        if not whole:
            records.skip(item)
            cut += 1
            continue
        found = replace(item, replies=whole, ended=(True,) * len(whole))
        ranks = labeller(found, seed)
        if min(ranks) > 1:  # the best of them is not good
            records.skip(item)
            wrong += 1
            continue
        records.add(found, ranks)
        kept += 1
    return (
        f"{kept:,} kept"
        + (f", {cut:,} prompts without a reply that comes to its end left out" if cut else "")
        + (f", {wrong:,} prompts without a right reply left out" if wrong else "")
        + f"; {len(records.rows):,} in {records.path}"
    )
