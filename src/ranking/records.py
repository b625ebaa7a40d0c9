"""What has been ranked, on disk: stop at any moment and go on.

comparisons.jsonl         a row a ranking, as data=file reads them
.comparisons.notes.jsonl  what is no row: {"skipped": ...}, {"again": ..., "ranks": ...}, and
                          {"from": ..., "row": 1}: what drew the replies of that row and the next,
                          and who ranked them
.comparisons.lock         while a program writes the two

The last two are hidden, so that data.path= of the folder, or a pattern, passes over them.
"""

import json
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from src.data.comparison import Context
from src.data.prompts import context_row
from src.errors import UserError
from src.files import disk
from src.ranking.draws import Drawn
from src.ranking.row_file import RowFile, let_go

Origin = Mapping[str, Any]
STARTS = ('{"prompt": ', '{"messages": ')
NOTE_STARTS = ('{"from": ', '{"skipped": ', '{"again": ')


class Records:
    """The rankings of one file and the notes beside it; each is on disk before the next is asked.

    Whoever reads changes nothing; whoever writes has both to itself from ``begin`` to ``close``.

    Args:
        path: the file of rows.
        key: the setting that names it.

    Raises:
        UserError: a file holds something else, or cannot be written; of all methods that write,
            too: the disk refuses, or another program writes there.
    """

    def __init__(self, path: Path, key: str = "output"):
        self.path, self.key = path, key
        if not path.name:
            raise UserError(f"{key}={path}: name a file, as in {key}=comparisons.jsonl")
        self.notes_path = path.with_name(f".{path.stem}.notes.jsonl")
        self.origin: Origin | None = None
        self._release: weakref.finalize | None = None
        self._rows = RowFile(path, key, STARTS)
        self._notes = RowFile(self.notes_path, key, NOTE_STARTS)
        for number, note in zip(self._notes.line_numbers, self.notes, strict=True):
            if not _is_note(note):
                raise UserError(
                    f"{key}={path}: {self.notes_path}, line {number}: no note of rankings; name a "
                    f"new file"
                )
        for number, row in zip(self._rows.line_numbers, self.rows, strict=True):
            if not self.is_row(row):
                raise self._rows.mistake(number, "it holds other rows; name a new file")
        if self._rows.cut_line is not None and not self.rows and not self.notes:
            raise self._rows.mistake(self._rows.cut_line, "no JSON; name a new file")
        self._rows.check_writable()

    @staticmethod
    def is_row(row: dict[str, Any]) -> bool:
        """Whether a row of a file is one of ours."""
        return _is_ranking(row)

    @staticmethod
    def columns(drawn: Drawn, ranks: list[int]) -> dict[str, Any]:
        """Return what a row says beside the context."""
        return {"replies": list(drawn.replies), "ranks": ranks, "ended": list(drawn.ended)}

    @property
    def rows(self) -> list[dict[str, Any]]:
        """All rankings, the oldest first."""
        return self._rows.rows

    @property
    def notes(self) -> list[dict[str, Any]]:
        """What is no ranking."""
        return self._notes.rows

    @property
    def is_lost(self) -> bool:
        """Whether another program has written, so that nothing can be written here."""
        return self._rows.is_lost or self._notes.is_lost

    def begin(self, origin: Origin) -> str | None:
        """Say what draws the replies that follow, and who ranks them, as ``origin_of`` returns it.

        Returns a line if the rows before came from something or somebody else.
        """
        self._hold()
        self.origin = origin
        others: Counter[str] = Counter()
        for other, rows in self._parts():
            if other is None:
                others["a model that is not noted"] += len(rows)
            elif other != origin:
                others[_origin_text(other, origin)] += len(rows)
        if not others.total():
            return None
        which = "; ".join(f"{number:,} of {text}" for text, number in others.items() if number)
        return (
            f"{self.path} holds other rankings: {which}. New ones join them, and "
            f"{self.notes_path.name} notes which are whose; to keep them apart, name another "
            f"{self.key}"
        )

    def close(self) -> None:
        """Let other programs write."""
        if self._release is not None:
            self._release()
            self._release = None

    @property
    def noted(self) -> bool:
        """Whether it is noted who drew the replies: the rankings are not a stranger's."""
        return any("from" in note for note in self.notes)

    @property
    def own_rows(self) -> list[dict[str, Any]]:
        """The rankings of the one who ranks now, or who ranked last; the oldest first."""
        parts = self._parts()
        return [row for other, rows in parts if _ranker(other) == self._ranker for row in rows]

    def knows_again(self, row: Mapping[str, Any] | None) -> bool:
        """Whether a second ranking has been asked for; None needs none."""
        return row is None or any(note["again"] == key_of_row(row) for note in self._own_agains())

    @property
    def seen(self) -> set[str]:
        """The keys of the prompts that have been ranked or skipped."""
        skipped = {note["skipped"] for note in self.notes if "skipped" in note}
        return skipped | {key_of_row(row) for row in self.rows}

    def add(self, drawn: Drawn, ranks: list[int]) -> None:
        """Write a ranking."""
        if self.origin is not None and self._last_origin() != self.origin:
            self._note({"from": self.origin, "row": len(self.rows) + 1})
        row = {**context_row(drawn.context), **self.columns(drawn, ranks)}
        if drawn.family:
            row["family"] = drawn.family
        self._hold()
        self._rows.append(row)

    def skip(self, drawn: Drawn) -> None:
        """Note that a prompt is not asked again."""
        self._note({"skipped": key_of(drawn.context)})

    def add_again(self, row: Mapping[str, Any], ranks: list[int] | None) -> None:
        """Note a second ranking of the same replies; None: it was skipped."""
        self._note({"again": key_of_row(row), "ranks": ranks, **self._ranker})

    def undo_again(self) -> None:
        """Take back the last second ranking, and the first one stays."""
        last = max(number for number, note in enumerate(self.notes) if "again" in note)
        self._hold()
        self._notes.write([*self.notes[:last], *self.notes[last + 1 :]])

    def undo(self, drawn: Drawn) -> None:
        """Take back what was said of a prompt: its last ranking and a second one, or the skip."""
        key = key_of(drawn.context)
        found = [number for number, row in enumerate(self.rows) if key_of_row(row) == key]
        rows = [row for number, row in enumerate(self.rows) if number not in found[-1:]]
        notes = [n for n in self.notes if key not in (n.get("again"), n.get("skipped"))]
        self._hold()
        if len(rows) != len(self.rows):
            self._rows.write(rows)
        if len(notes) != len(self.notes):
            self._notes.write(notes)

    def agreement(self) -> tuple[float, int]:
        """Return how often two rankings of the same replies agree on a pair, and of how many.

        Both are of the one who ranks now, or who ranked last. A pair counts if both rankings
        prefer one of its replies.
        """
        first = {key_of_row(row): row["ranks"] for row in self.own_rows}
        agreed = total = 0
        for note in self._own_agains():
            one, other = first.get(note["again"]), note["ranks"]
            if one is None or other is None or len(one) != len(other):
                continue
            for i in range(len(one)):
                for j in range(i):
                    if one[i] != one[j] and other[i] != other[j]:
                        total += 1
                        agreed += (one[i] < one[j]) == (other[i] < other[j])
        return agreed / max(total, 1), total

    def _parts(self) -> list[tuple[Origin | None, list[dict[str, Any]]]]:
        """Return the rows in parts of one origin each; None: it is not noted."""
        starts = [n for n in self.notes if "from" in n and n["row"] <= len(self.rows)]
        origins = [None, *(note["from"] for note in starts)]
        ends = [*(note["row"] - 1 for note in starts), len(self.rows)]
        return [
            (origin, self.rows[first:end])
            for origin, first, end in zip(origins, [0, *ends], ends, strict=False)
        ]

    def _last_origin(self) -> Origin | None:
        return next((note["from"] for note in reversed(self.notes) if "from" in note), None)

    @property
    def _ranker(self) -> dict[str, Any]:
        """Who ranks now, or who ranked last."""
        return _ranker(self.origin or self._last_origin())

    def _own_agains(self) -> Iterator[dict[str, Any]]:
        return (n for n in self.notes if "again" in n and _ranker(n) == self._ranker)

    def _note(self, note: dict[str, Any]) -> None:
        self._hold()
        self._notes.append(note)

    def _hold(self) -> None:
        """Keep other programs from writing, until ``close`` or the end of this object."""
        if self._release is not None:
            return
        lock = FileLock(self.path.with_name(f".{self.path.stem}.lock"))
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout as error:
            raise UserError(
                f"{self.key}={self.path}: another program writes there, src.rank or the page's tab "
                f"Rank: end it, or name another file"
            ) from error
        except OSError as error:
            reason = disk.reason(error)
            raise UserError(f"{self.key}={self.path}: cannot be written: {reason}") from error
        self._release = weakref.finalize(self, let_go, lock)
        for file in (self._rows, self._notes):
            file.check_unchanged()


def key_of(context: Context) -> str:
    """Return a text that is the same for equal contexts."""
    return key_of_row(context_row(context))


def key_of_row(row: Mapping[str, Any]) -> str:
    """Return the key of the context of a row."""
    return json.dumps({name: row[name] for name in ("prompt", "messages") if name in row})


def _ranker(noted: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return who ranked, by an origin or a note; nothing where that is not noted."""
    noted = noted or {}
    return {name: noted[name] for name in ("labeller", "noise") if name in noted}


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


def _is_note(note: dict[str, Any]) -> bool:
    """Whether a line of notes is one of ours."""
    if "from" in note:
        return isinstance(note["from"], dict) and type(note.get("row")) is int
    if "again" in note:
        ranks = note.get("ranks", 0)
        return type(note["again"]) is str and (
            ranks is None or (isinstance(ranks, list) and all(type(r) is int for r in ranks))
        )
    return type(note.get("skipped")) is str


def _origin_text(origin: Origin, present: Origin) -> str:
    """Return which model drew replies, and what else was not as it is now."""
    text = f"{origin.get('model')} (seed {origin.get('seed')}"
    if origin.get("model") == present["model"] and origin.get("weights") != present["weights"]:
        text += ", other weights than it has now"
    if origin.get("generation") != present["generation"]:
        text += ", drawn in another way"
    if _ranker(origin) != _ranker(present):
        noise = f" with noise={origin['noise']}" if "noise" in origin else ""
        text += f", ranked by {origin.get('labeller', 'somebody who is not noted')}{noise}"
    return text + ")"
