"""Where rows come from: files, hub data sets, the embedded corpus, or several of these.

A source yields ``(split, conversation)`` pairs; a ``RowReport`` counts the rows it cannot use.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from functools import cache
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any, TypeVar

from src.data.config import DataConfig, SourceConfig
from src.data.conversation import Conversation, RowReader, UnusableRow
from src.data.file_rows import file_parts
from src.data.files.part import SPLITS, Broken, Part, Record
from src.data.hub_rows import hub_parts
from src.data.report import OVER_MAX_ROWS, prompt_hash
from src.data.report import RowReport as RowReport
from src.errors import UserError

MOST_NAMED = 10  # broken rows that one message names
MOST_LOOKED_AT = 25_000  # rows, for some of a split: the embedded ones are fewer
GOLDEN = 0.618033988749895  # multiples of it, modulo 1, fill the interval ever more densely
T = TypeVar("T")


class Source:
    """The rows of one data set, with the split that each conversation belongs to.

    A split without its own rows gets a share of train's, by a hash of the first prompt: equal
    prompts are always in the same split.

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
        return _hash(facts)

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
        used: Counter[str] = Counter()
        read = report.read
        readers: list[RowReader] = []
        for part in self.parts:
            reader: RowReader | None = None
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
                    reader = RowReader(list(row), self.config.columns, part.name, own)
                    readers.append(reader)
                named = part.split or row["split"]
                if self.config.source == "sample" and self._is_full(named, used):
                    report.dropped[OVER_MAX_ROWS] += 1  # as usable as all others of ours
                    continue
                try:
                    conversation = reader(row)
                except UnusableRow as problem:
                    report.drop(problem.reason, part.place(number), problem.found)
                    continue
                if reader.unused:
                    report.not_used(reader.unused, part.place(number))
                split = self._split(named, conversation.turns[0][0])
                if self._is_full(split, used):
                    report.dropped[OVER_MAX_ROWS] += 1
                    continue
                used[split] += 1
                report.used[split] += 1
                yield split, conversation
        if readers and set.intersection(*(reader.absent for reader in readers)):
            readers[0].finish()
        if not used["train"]:
            reasons = "; ".join(report.explain())
            raise UserError(
                f"{self.parts[0].name}: no usable training rows among {report.read - read:,}"
                + (f" ({reasons})" if reasons else "; the dataset is empty")
            )

    def _is_full(self, split: str, used: Counter[str]) -> bool:
        return self.config.max_rows is not None and used[split] >= self.config.max_rows

    def _divides(self, split: str) -> bool:
        """Whether other splits are taken out of this one."""
        return split == "train" and bool(self.test_fraction or self.validation_fraction)

    def some(self, split: str, most: int) -> list[Conversation]:
        """Return conversations of a split: of each family in turn, and from all over it.

        Always the same; only the first ``MOST_LOOKED_AT`` rows are read.
        """
        own_first = copy(self)
        own_first.parts = sorted(self.parts, key=lambda part: part.split != split)
        families: dict[str, list[Conversation]] = {}
        for name, conversation in islice(own_first.conversations(RowReport()), MOST_LOOKED_AT):
            if name == split:
                families.setdefault(conversation.family, []).append(conversation)
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


class Mixture(Source):
    """Several data sets, one after another."""

    def __init__(self, config: DataConfig, sources: list[Source]):
        self.config = config
        self.members = sources
        self.parts = [part for source in sources for part in source.parts]

    @property
    def sources(self) -> list[Source]:
        """The data sets that this is made of."""
        return self.members

    def fingerprint(self) -> str:
        """Return a hash of all rows, and not of the weights, which come in after them."""
        return _hash([source.fingerprint() for source in self.members])

    def check_unchanged(self) -> None:
        """Check each source; see ``Source``."""
        for source in self.members:
            source.check_unchanged()

    def conversations(self, report: RowReport) -> Iterator[tuple[str, Conversation]]:
        """Yield the conversations of each source in turn; see ``Source``."""
        for source in self.members:
            yield from source.conversations(report)


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


def _hash(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def open_source(config: DataConfig) -> Source:
    """Open the source or sources of ``config``; their rows are read later.

    Raises:
        UserError: a file or hub data set cannot be opened.
    """
    if config.sources is None:
        return _open_one(config)
    entries = config.mixture()
    labels = _labels(entries)
    return Mixture(
        config,
        [
            _open_one(entry.in_place_of(config), label, entry.weight)
            for entry, label in zip(entries, labels, strict=True)
        ],
    )


def _labels(entries: Sequence[SourceConfig]) -> list[str]:
    """Return a name for each source, each once."""
    labels: list[str] = []
    for entry in entries:
        first = entry.path if isinstance(entry.path, str) else entry.path[0]
        label = entry.label or Path(first.rstrip("/")).name.split(".")[0] or "rows"
        while label in labels:
            extra = entry.name or entry.split
            label = (
                f"{label}-{extra}" if extra and extra not in label else f"{label}-{len(labels) + 1}"
            )
        labels.append(label)
    return labels


def _open_one(config: DataConfig, label: str = "rows", weight: float = 1.0) -> Source:
    hash_again = None
    if config.source == "hub":
        parts, content_hash = hub_parts(config)
    elif config.source == "file":
        parts, content_hash = file_parts(config)

        def hash_again() -> str:
            return file_parts(config)[1]

    else:
        parts, content_hash = _sample_parts(config)
    return Source(config, parts, content_hash, label, weight, hash_again)


def _sample_parts(config: DataConfig) -> tuple[list[Part], str]:
    from src.data.sample import sample_rows

    if config.path is not None:
        raise UserError(f"data.path={config.path}: the embedded rows have no path; add data=file")
    rows = sample_rows()
    part = Part("the embedded corpus", None, lambda: enumerate(rows, 1), "row")
    return [part], _sample_hash()


@cache
def _sample_hash() -> str:
    from src.data.sample import sample_rows

    return _hash(sample_rows())
