"""The conversations of a source as JSON: what is read, before anything is encoded."""

import json
from collections.abc import Iterator
from typing import Any

from src.data.report import PromptOverlap, RowReport
from src.data.sources import Source

LINE_BREAKS = "\x85\u2028\u2029"


def json_lines(source: Source) -> Iterator[str]:
    """Yield a line for each conversation, in the order of the rows, and a last one, the report.

    Raises:
        UserError: the rows cannot be read or used.
    """
    report, overlap = RowReport(), PromptOverlap()
    for split, conversation in source.conversations(report):
        overlap.add([split], [conversation.turns[0][0]])
        yield _line(
            {
                "system": conversation.system,
                "opening": conversation.opening,
                "turns": conversation.turns,
                "taught": conversation.taught or [True] * len(conversation.turns),
                "split": split,
            }
        )
    report.shared_prompts = overlap.counts()
    yield _line({"report": report.to_json()})


def _line(values: dict[str, Any]) -> str:
    text = json.dumps(values, ensure_ascii=False)
    for character in LINE_BREAKS:  # many readers end a line there
        text = text.replace(character, f"\\u{ord(character):04x}")
    # A file's name may hold bytes that are no UTF-8.
    return text.encode("utf-8", "backslashreplace").decode()
