"""What has been ranked, on disk: stop at any moment and go on.

comparisons.jsonl         a row a ranking, as data=file reads them
.comparisons.notes.jsonl  what is no row: {"skipped": ...}, {"again": ..., "ranks": ...}, and
                          {"from": ..., "row": 1}: what drew the replies of that row and the next

The second is hidden, so that data.path= of the folder, or a pattern, passes over it.
"""

import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from src.data.comparison import Context
from src.data.prompts import context_row
from src.errors import UserError
from src.files import atomic, disk
from src.ranking.draws import Drawn


class Records:
    """The rankings of one file and the notes beside it; each is on disk before the next is asked.

    Args:
        path: the file of rows.

    Raises:
        UserError: a file holds something else, or cannot be written; of all methods that write,
            too: the disk refuses, or another program has written meanwhile.
    """

    def __init__(self, path: Path):
        self.path = path
        self.notes_path = path.with_name(f".{path.stem}.notes.jsonl")
        self.origin: Mapping[str, Any] | None = None
        self.rows = _lines(path)
        self.notes = _lines(self.notes_path)
        for number, note in enumerate(self.notes, 1):
            if not _is_note(note):
                raise UserError(
                    f"output={path}: {self.notes_path}, line {number}: no note of rankings; name a "
                    f"new file"
                )
        _check_writable(path)
        self.sizes = {file: _size(file) for file in (path, self.notes_path)}
        for number, row in enumerate(self.rows, 1):
            if not self.is_row(row):
                raise UserError(
                    f"output={path}, line {number}: it holds other rows; name a new file"
                )

    @staticmethod
    def is_row(row: dict[str, Any]) -> bool:
        """Whether a row of a file is one of ours."""
        return _is_ranking(row)

    @staticmethod
    def columns(drawn: Drawn, ranks: list[int]) -> dict[str, Any]:
        """Return what a row says beside the context."""
        return {"replies": list(drawn.replies), "ranks": ranks, "ended": list(drawn.ended)}

    def begin(self, origin: Mapping[str, Any]) -> str | None:
        """Say what draws the replies that follow, as ``origin_of`` returns it.

        Returns a line if replies of the rows before came from something else.
        """
        self.origin = origin
        others: Counter[str] = Counter()
        starts = [n for n in self.notes if "from" in n and n["row"] <= len(self.rows)]
        first = min((note["row"] for note in starts), default=len(self.rows) + 1)
        if first > 1:
            others["a model that is not noted"] = first - 1
        ends = [*(note["row"] for note in starts[1:]), len(self.rows) + 1]
        for note, end in zip(starts, ends, strict=False):
            if note["from"] != origin:
                others[_origin_text(note["from"], origin)] += end - note["row"]
        if not others.total():
            return None
        which = "; ".join(f"{number:,} of {text}" for text, number in others.items() if number)
        return (
            f"{self.path} holds rankings of other replies: {which}. New ones join them, and "
            f"{self.notes_path.name} notes which are whose; to keep them apart, name another output"
        )

    @property
    def noted(self) -> bool:
        """Whether it is noted who drew the replies: the rankings are not a stranger's."""
        return any("from" in note for note in self.notes)

    def knows_again(self, row: Mapping[str, Any] | None) -> bool:
        """Whether a second ranking has been asked for; None needs none."""
        return row is None or any(note.get("again") == key_of_row(row) for note in self.notes)

    @property
    def seen(self) -> set[str]:
        """The keys of the prompts that have been ranked or skipped."""
        skipped = {note["skipped"] for note in self.notes if "skipped" in note}
        return skipped | {key_of_row(row) for row in self.rows}

    def add(self, drawn: Drawn, ranks: list[int]) -> None:
        """Write a ranking."""
        last = next((note["from"] for note in reversed(self.notes) if "from" in note), None)
        if self.origin is not None and last != self.origin:
            self._note({"from": self.origin, "row": len(self.rows) + 1})
        row = {**context_row(drawn.context), **self.columns(drawn, ranks)}
        if drawn.family:
            row["family"] = drawn.family
        self._append(self.path, row)
        self.rows.append(row)

    def skip(self, drawn: Drawn) -> None:
        """Note that a prompt is not asked again."""
        self._note({"skipped": key_of(drawn.context)})

    def add_again(self, row: Mapping[str, Any], ranks: list[int] | None) -> None:
        """Note a second ranking of the same replies; None: it was skipped."""
        self._note({"again": key_of_row(row), "ranks": ranks})

    def undo_again(self) -> None:
        """Take back the last second ranking, and the first one stays."""
        last = max(number for number, note in enumerate(self.notes) if "again" in note)
        self._write(self.notes_path, [*self.notes[:last], *self.notes[last + 1 :]])
        del self.notes[last]

    def _note(self, note: dict[str, Any]) -> None:
        self._append(self.notes_path, note)
        self.notes.append(note)

    def _append(self, path: Path, row: dict[str, Any]) -> None:
        """Add a line; a file that the disk refuses is as it was."""
        self._check_unchanged(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                file.write(json.dumps(row).encode() + b"\n")
        except OSError as error:
            if path.is_file():
                os.truncate(path, self.sizes[path])
            raise UserError(f"output={path}: cannot be written: {disk.reason(error)}") from error
        self.sizes[path] = _size(path)

    def _write(self, path: Path, rows: list[dict[str, Any]]) -> None:
        self._check_unchanged(path)
        try:
            atomic.write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
        except OSError as error:
            raise UserError(f"output={path}: cannot be written: {disk.reason(error)}") from error
        self.sizes[path] = _size(path)

    def _check_unchanged(self, path: Path) -> None:
        if _size(path) != self.sizes[path]:
            raise UserError(
                f"output={path}: another program has written there meanwhile: end one of the two, "
                f"and start this one anew"
            )

    def undo(self, drawn: Drawn) -> None:
        """Take back what was said of a prompt: its last ranking and a second one, or the skip."""
        key = key_of(drawn.context)
        found = [number for number, row in enumerate(self.rows) if key_of_row(row) == key]
        rows = [row for number, row in enumerate(self.rows) if number not in found[-1:]]
        notes = [n for n in self.notes if key not in (n.get("again"), n.get("skipped"))]
        if len(rows) != len(self.rows):
            self._write(self.path, rows)
            self.rows = rows
        if len(notes) != len(self.notes):
            self._write(self.notes_path, notes)
            self.notes = notes

    def agreement(self) -> tuple[float, int]:
        """Return how often two rankings of the same replies agree on a pair, and of how many.

        A pair counts if both rankings prefer one of its replies.
        """
        first = {key_of_row(row): row["ranks"] for row in self.rows}
        agreed = total = 0
        for note in self.notes:
            one, other = first.get(note.get("again", "")), note.get("ranks")
            if one is None or other is None or len(one) != len(other):
                continue
            for i in range(len(one)):
                for j in range(i):
                    if one[i] != one[j] and other[i] != other[j]:
                        total += 1
                        agreed += (one[i] < one[j]) == (other[i] < other[j])
        return agreed / max(total, 1), total


def key_of(context: Context) -> str:
    """Return a text that is the same for equal contexts."""
    return key_of_row(context_row(context))


def key_of_row(row: Mapping[str, Any]) -> str:
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


def _is_note(note: dict[str, Any]) -> bool:
    """Whether a line of notes is one of ours."""
    if "from" in note:
        return isinstance(note["from"], dict) and type(note.get("row")) is int
    if "again" in note:
        ranks = note.get("ranks")
        return type(note["again"]) is str and (
            ranks is None or (isinstance(ranks, list) and all(type(r) is int for r in ranks))
        )
    return type(note.get("skipped")) is str


def _origin_text(origin: Mapping[str, Any], present: Mapping[str, Any]) -> str:
    """Return which model drew replies, and what else was not as it is now."""
    text = f"{origin.get('model')} (seed {origin.get('seed')}"
    if origin.get("model") == present["model"] and origin.get("weights") != present["weights"]:
        text += ", other weights than it has now"
    if origin.get("generation") != present["generation"]:
        text += ", drawn in another way"
    if origin.get("labeller") != present.get("labeller"):
        text += f", chosen by {origin.get('labeller')}"
    return text + ")"


def _check_writable(path: Path) -> None:
    """Check that a file may be written, or made, before anybody has ranked for it.

    Raises:
        UserError: it may not.
    """
    if path.exists():
        if not os.access(path, os.W_OK):
            raise UserError(f"output={path}: cannot be written: Permission denied")
        return
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir():
        raise UserError(f"output={path}: cannot be written: {folder} is a file, not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"output={path}: cannot be written: {folder}: Permission denied")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
