"""The rows of one data set, each with its split.

A source yields ``(split, conversation)`` pairs; a ``RowReport`` counts the rows it cannot use.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from copy import copy
from itertools import accumulate, islice, zip_longest
from typing import Any, TypeVar

from src.data.comparison import Comparison, Gathering, ScoredReply
from src.data.comparison_reader import ComparisonReader
from src.data.config import DataConfig
from src.data.conversation import Conversation, RowReader, UnusableRow
from src.data.files.part import SPLITS, Broken, Part, Record
from src.data.report import OTHER_PART, OVER_MAX_ROWS, normal_hash, prompt_hash
from src.data.report import RowReport as RowReport
from src.errors import UserError

MOST_NAMED = 10  # broken rows that one message names
MOST_LOOKED_AT = 25_000  # rows, for some of a split: the embedded ones are fewer
GOLDEN = 0.618033988749895  # multiples of it, modulo 1, fill the interval ever more densely
T = TypeVar("T")

Read = Conversation | Comparison  # what a usable row becomes
Reader = type[RowReader] | type[ComparisonReader]


class Source:
    """The rows of one data set, with the split that each conversation belongs to.

    A split without its own rows gets a share of train's, by a hash of the first prompt: equal
    prompts are always in the same split. ``data.part`` leaves one share of train's rows, by another
    hash of the first prompt.

    Args:
        config: the values of ``conf/data`` for this source alone.
        parts: its rows.
        content_hash: of the rows.
        label: what its figures are called.
        weight: how often each row of train is in an epoch.
        hash_again: reads the rows' bytes for another ``content_hash``; None: they cannot change.
    """

    def __init__(
        self,
        config: DataConfig,
        parts: list[Part],
        content_hash: str,
        label: str = "rows",
        weight: float = 1.0,
        hash_again: Callable[[], str] | None = None,
    ):
        self.config = config
        self.parts = parts
        self.content_hash = content_hash
        self.label = label
        self.weight = weight
        self.hash_again = hash_again
        self.reader: Reader = RowReader
        splits = set(SPLITS) if parts[0].split is None else {part.split for part in parts}
        self.test_fraction = 0.0 if "test" in splits else config.test_fraction
        self.validation_fraction = 0.0 if "validation" in splits else config.validation_fraction

    @property
    def sources(self) -> "list[Source]":
        """The data sets that this is made of."""
        return [self]

    def fingerprint(self) -> str:
        """Return a hash of the rows and of everything that decides their conversations."""
        facts = [
            self.content_hash,
            self.config.columns,
            self.config.encoding,
            self.config.on_bad_row,
            self.config.max_rows,
            self.test_fraction,
            self.validation_fraction,
        ]
        if self.config.share is not None:
            facts += [self.config.share, self.config.part]
        if self.reader is not RowReader:
            facts.append(self.reader.kind)
        return hash_of(facts)

    def read_by(self, reader: Reader) -> "Source":
        """Return this source with its rows read as something else: as comparisons."""
        other = copy(self)
        other.reader = reader
        return other

    def check_unchanged(self) -> None:
        """Check that the rows, which have been read, are those of the fingerprint.

        Raises:
            UserError: a file has changed since it was opened.
        """
        if self.hash_again is not None and self.hash_again() != self.content_hash:
            raise UserError(
                f"{self.parts[0].name}: it changed while it was read: start again when nothing "
                f"writes to it"
            )

    def conversations(self, report: RowReport) -> Iterator[tuple[str, Conversation]]:
        """Yield ``(split, conversation)`` of every usable row; count all rows in ``report``.

        Raises:
            UserError: the source is empty, broken, or has no recognised columns.
        """
        assert self.reader is RowReader
        return self.read(report)  # type: ignore[return-value]

    def read(self, report: RowReport, may_lack: bool = False) -> Iterator[tuple[str, Read]]:
        """Yield the split of every usable row, and what ``reader`` makes of it.

        Rows that are gathered come at the end. See ``conversations``; ``may_lack``: that no row is
        usable for this ``reader`` is no mistake.
        """
        used: Counter[str] = Counter()
        read = report.read
        readers: list[RowReader | ComparisonReader] = []
        gathering = Gathering()
        for part in self.parts:
            for split, number, row in self._usable(part, readers, used, report):
                used[split] += 1
                if isinstance(row, ScoredReply):
                    gathering.add(split, row, part.place(number))
                else:
                    report.used[split] += 1
                    yield split, row
        for split, num_rows, place, found in gathering:
            if isinstance(found, UnusableRow):
                report.drop(found.reason, place, found.found, num_rows=num_rows)
                used[split] -= num_rows
            else:
                report.used[split] += num_rows
                yield split, found
        if may_lack:
            return
        if readers and set.intersection(*(reader.absent for reader in readers)):
            readers[0].finish()
        if not used["train"]:
            reasons = "; ".join(report.explain())
            raise UserError(
                f"{self.parts[0].name}: no usable training rows among {report.read - read:,}"
                + (f" ({reasons})" if reasons else "; the dataset is empty")
            )

    def _usable(
        self,
        part: Part,
        readers: list[RowReader | ComparisonReader],
        used: Counter[str],
        report: RowReport,
    ) -> Iterator[tuple[str, int, Read | ScoredReply]]:
        """Yield the split and the number of every usable row of a part, and what it holds."""
        reader: RowReader | ComparisonReader | None = None
        report.not_used(part.unused, part.name)
        records = iter(part.records())
        for number, row in records:
            report.read += 1
            if isinstance(row, Broken):
                if row.is_of_disk:
                    raise UserError(f"{part.place(number)}: {row.what}")
                if self.config.on_bad_row == "stop":
                    raise _stop(part, number, row, records)
                report.drop("broken_line", part.place(number), row.what, most=MOST_NAMED)
                continue
            if reader is None:
                own = ("split",) if part.split is None else ()
                reader = self.reader(list(row), self.config.columns, part.name, own)
                readers.append(reader)
            named = part.split or row["split"]
            if self.config.source == "sample" and self._is_full(named, used):
                report.dropped[OVER_MAX_ROWS] += 1  # as usable as all others of ours
                continue
            try:
                found = reader(row)
            except UnusableRow as problem:
                report.drop(problem.reason, part.place(number), problem.found)
                continue
            if reader.unused:
                report.not_used(reader.unused, part.place(number))
            split = self._split(named, found.first_prompt)
            if split == "train" and not self._is_of_part(found.first_prompt):
                report.dropped[OTHER_PART] += 1
            elif self._is_full(split, used):
                report.dropped[OVER_MAX_ROWS] += 1
            else:
                yield split, number, found

    def _is_of_part(self, prompt: str) -> bool:
        """Whether a row of train belongs to ``data.part``; all of one prompt do, or none."""
        if self.config.share is None or self.config.part is None:
            return True
        ends = [0.0, *accumulate(self.config.share)]
        if ends[-1] > 1 - 1e-6:
            ends[-1] = 1.0
        share = normal_hash(f"part {prompt}") / 2**64
        return ends[self.config.part - 1] <= share < ends[self.config.part]

    def _is_full(self, split: str, used: Counter[str]) -> bool:
        return self.config.max_rows is not None and used[split] >= self.config.max_rows

    def _divides(self, split: str) -> bool:
        """Whether other splits are taken out of this one."""
        return split == "train" and bool(self.test_fraction or self.validation_fraction)

    def some(self, split: str, most: int) -> list[Read]:
        """Return rows of a split: of each family in turn, and from all over it.

        Always the same; only the first ``MOST_LOOKED_AT`` rows are read.
        """
        own_first = copy(self)
        own_first.parts = sorted(self.parts, key=lambda part: part.split != split)
        families: dict[str, list[Read]] = {}
        for name, row in islice(own_first.read(RowReport()), MOST_LOOKED_AT):
            if name == split:
                families.setdefault(row.family, []).append(row)
        in_turn = zip_longest(*map(spread, spread(list(families.values()))))
        return [row for rows in in_turn for row in rows if row is not None][:most]

    def _split(self, split: str, prompt: str) -> str:
        if not self._divides(split):
            return split
        share = prompt_hash(prompt) / 2**64
        if share < self.test_fraction:
            return "test"
        if share < self.test_fraction + self.validation_fraction:
            return "validation"
        return "train"


def spread(items: list[T]) -> list[T]:
    """Return items in an order of which each beginning is from all over them."""
    return [items[i] for i in sorted(range(len(items)), key=lambda i: i * GOLDEN % 1.0)]


def _stop(part: Part, number: int, row: Broken, rest: Iterator[Record]) -> UserError:
    """Return the error that names this broken row of a file and the next ones."""
    others = ((n, other) for n, other in rest if isinstance(other, Broken))
    broken = [(number, row), *islice(others, MOST_NAMED)]
    named = "; ".join(
        f"{part.unit} {n}: {bad.what}"
        for n, bad in broken[:MOST_NAMED]  # type: ignore[union-attr]
    )
    several = len(broken) > 1
    more = "; and more" if len(broken) > MOST_NAMED else ""
    them = "them" if several else "it"
    return UserError(
        f"{part.name}, {named}{more}: mend or remove {them}, or leave {them} out with "
        f"data.on_bad_row=skip"
    )


def hash_of(facts: Any) -> str:
    """Return a hash of plain values."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
