"""Replies before and after training beside their references: on the terminal, and as files."""

import json
from collections.abc import Sequence
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from src.talk.messages import Message

COLUMNS = 100  # of the table, at most
CELL = 160  # characters of a text in the table, at most
EARLIER = 2  # messages before the question that the table shows
NOTHING = "(nothing)"
SIGNS = {"system": "system: ", "user": "", "assistant": "> "}


class Answered(NamedTuple):
    """A question with what was said to it; ``reference`` is None where nobody has one."""

    messages: Sequence[Message]
    before: str
    after: str
    reference: str | None

    @property
    def question(self) -> str:
        """The whole conversation before the reply, a line for each message."""
        *before, last = self.messages
        return "\n".join([*(SIGNS[m.role] + m.content for m in before), last.content])


def print_table(rows: Sequence[Answered], console: Console | None = None) -> None:
    """Print a table, by default on standard error, 100 columns wide at most; texts are cut."""
    console = console or Console(stderr=True)
    has_references = any(row.reference is not None for row in rows)
    headings = ("question", "before", "after", *(["reference"] if has_references else []))
    table = Table(*headings, show_lines=True)
    for row in rows:
        cells = [_told(row), _cell(row.before or NOTHING), _cell(row.after or NOTHING)]
        table.add_row(*cells, *([_cell(row.reference or "")] if has_references else []))
    console.print(table, width=min(console.width, COLUMNS))


def _told(row: Answered) -> str:
    """Return the last question, after what was said right before it in dim lines."""
    *before, last = row.messages
    lines = [f"{SIGNS[m.role]}{_cell(m.content)}" for m in before[-EARLIER:]]
    if len(before) > EARLIER:
        number = len(before) - EARLIER
        lines.insert(0, f"({number} message{'s' * (number > 1)} before)")
    return "\n".join([*(f"[dim]{line}[/dim]" for line in lines), _cell(last.content)])


def as_json(rows: Sequence[Answered]) -> str:
    """Return the text of ``replies.json``: a list of objects, texts in full."""
    values = [
        {
            "question": row.question,
            "before": row.before,
            "after": row.after,
            "reference": row.reference,
        }
        for row in rows
    ]
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def as_markdown(rows: Sequence[Answered]) -> str:
    """Return the text of ``replies.md``: texts in full, as they are."""
    parts = ["# Replies before and after training\n"]
    for number, row in enumerate(rows, start=1):
        texts = {"before training": row.before, "after": row.after}
        if row.reference is not None:
            texts["reference"] = row.reference
        parts.append(f"## {number}\n\n{_verbatim(row.question)}")
        parts += [f"{name}:\n\n{_verbatim(text or NOTHING)}" for name, text in texts.items()]
    return "\n".join(parts)


def one_line(text: str, most: int = CELL) -> str:
    """Return text without control characters on one line, cut where it is longer than ``most``."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= most else line[: most - 3].rstrip() + "..."


def _cell(text: str) -> str:
    """Return a text as a table shows it: no markup in it."""
    return one_line(text).replace("[", r"\[")


def _verbatim(text: str) -> str:
    """Return text as a block of code, in which Markdown reads nothing."""
    return "".join(f"    {line}\n" for line in text.splitlines() or [""])
