"""What has been ranked, on disk: stop at any moment and go on.

comparisons.jsonl         a row a ranking, as data=file reads them
.comparisons.notes.jsonl  what is no row: {"skipped": ...}, {"again": ..., "ranks": ...}

The second is hidden, so that data.path= of the folder, or a pattern, passes over it.
"""

import json
from pathlib import Path
from typing import Any

from src.data.comparison import Context
from src.data.prompts import context_row
from src.errors import UserError
from src.files import atomic
from src.ranking.draws import Drawn


class Records:
    """The rankings of one file and the notes beside it; each is on disk before the next is asked.

    Args:
        path: the file of rows.

    Raises:
        UserError: a file holds something else.
    """

    def __init__(self, path: Path):
        self.path = path
        self.notes_path = path.with_name(f".{path.stem}.notes.jsonl")
        self.rows = _lines(path)
        self.notes = _lines(self.notes_path)
        for number, row in enumerate(self.rows, 1):
            if not _is_ranking(row):
                raise UserError(
                    f"output={path}, line {number}: it holds other rows; name a new file"
                )

    @property
    def seen(self) -> set[str]:
        """The keys of the prompts that have been ranked or skipped."""
        skipped = {note["skipped"] for note in self.notes if "skipped" in note}
        return skipped | {key_of_row(row) for row in self.rows}

    def add(self, drawn: Drawn, ranks: list[int]) -> None:
        """Write a ranking."""
        row = {
            **context_row(drawn.context),
            "replies": list(drawn.replies),
            "ranks": ranks,
            "ended": list(drawn.ended),
        }
        if drawn.family:
            row["family"] = drawn.family
        self.rows.append(row)
        _append(self.path, row)

    def skip(self, drawn: Drawn) -> None:
        """Note that a prompt is not asked again."""
        self._note({"skipped": key_of(drawn.context)})

    def add_again(self, row: dict[str, Any], ranks: list[int]) -> None:
        """Note a second ranking of the same replies."""
        self._note({"again": key_of_row(row), "ranks": ranks})

    def _note(self, note: dict[str, Any]) -> None:
        self.notes.append(note)
        _append(self.notes_path, note)

    def undo(self, drawn: Drawn) -> None:
        """Take back what was said of a prompt: its last ranking and a second one, or the skip."""
        key = key_of(drawn.context)
        found = [number for number, row in enumerate(self.rows) if key_of_row(row) == key]
        for number in found[-1:]:
            del self.rows[number]
        self.notes = [n for n in self.notes if key not in (n.get("again"), n.get("skipped"))]
        _write(self.path, self.rows)
        _write(self.notes_path, self.notes)

    def agreement(self) -> tuple[float, int]:
        """Return how often two rankings of the same replies agree on a pair, and of how many.

        A pair counts if both rankings prefer one of its replies.
        """
        first = {key_of_row(row): row["ranks"] for row in self.rows}
        agreed = total = 0
        for note in self.notes:
            if (one := first.get(note.get("again", ""))) is None:
                continue
            other = note["ranks"]
            for i in range(len(one)):
                for j in range(i):
                    if one[i] != one[j] and other[i] != other[j]:
                        total += 1
                        agreed += (one[i] < one[j]) == (other[i] < other[j])
        return agreed / max(total, 1), total


def key_of(context: Context) -> str:
    """Return a text that is the same for equal contexts."""
    return key_of_row(context_row(context))


def key_of_row(row: dict[str, Any]) -> str:
    """Return the key of the context of a row."""
    return json.dumps({name: row[name] for name in ("prompt", "messages") if name in row})


def _is_ranking(row: dict[str, Any]) -> bool:
    """Whether a row of a file is one of ours; without ``ended`` each reply is taken to have."""
    replies, ranks = row.get("replies"), row.get("ranks")
    if not isinstance(replies, list) or not isinstance(ranks, list):
        return False
    row.setdefault("ended", [True] * len(replies))
    return (
        (type(row.get("prompt")) is str or type(row.get("messages")) is list)
        and all(type(reply) is str for reply in replies)
        and all(type(rank) in (int, float) for rank in ranks)
        and type(row["ended"]) is list
        and len(replies) == len(ranks) == len(row["ended"])
    )


def _lines(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file; a last line that was cut off in writing is removed."""
    if not path.exists():
        return []
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"output={path}: not UTF-8 text (byte {error.start}); name a new file"
        ) from error
    except OSError as error:
        raise UserError(f"output={path}: cannot be read: {error.strerror or error}") from error
    whole = text[: text.rfind("\n") + 1]
    rows = []
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise UserError(f"output={path}, line {number}: no JSON; name a new file") from error
        if not isinstance(rows[-1], dict):
            raise UserError(f"output={path}, line {number}: no row; name a new file")
    if whole != text:
        atomic.write_text(path, whole)
    return rows


def _append(path: Path, row: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    atomic.write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
