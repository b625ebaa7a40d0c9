"""The conversations of a source as JSON: what is read, before anything is encoded."""

import json
from collections.abc import Iterator
from typing import Any

from src.data.comparison import Comparison
from src.data.prompts import context_row
from src.data.report import PromptOverlap, RowReport
from src.data.source import Read, Source

LINE_BREAKS = "\x85\u2028\u2029"


def json_lines(source: Source) -> Iterator[str]:
    """Yield a line for each row that is used, in their order, and a last one, the report.

    Raises:
        UserError: the rows cannot be read or used.
    """
    report, overlap = RowReport(), PromptOverlap()
    for split, row in source.read(report):
        overlap.add([split], [row.first_prompt])
        yield _line({**_values(row), "split": split})
    report.shared_prompts = overlap.counts()
    yield _line({"report": report.to_json()})


def _values(row: Read) -> dict[str, Any]:
    if isinstance(row, Comparison):
        return {
            **context_row(row.context),
            "replies": row.replies,
            "ranks": row.ranks,
            "ended": row.ended,
        }
    return {
        "system": row.system,
        "opening": row.opening,
        "turns": row.turns,
        "taught": row.taught or [True] * len(row.turns),
    }


def _line(values: dict[str, Any]) -> str:
    text = json.dumps(values, ensure_ascii=False)
    for character in LINE_BREAKS:  # many readers end a line there
        text = text.replace(character, f"\\u{ord(character):04x}")
    # A file's name may hold bytes that are no UTF-8.
    return text.encode("utf-8", "backslashreplace").decode()
