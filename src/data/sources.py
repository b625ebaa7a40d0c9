"""Where rows come from: files, hub data sets, the embedded corpus, or several of these."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from src.data.config import DataConfig, SourceConfig
from src.data.conversation import Conversation
from src.data.file_rows import file_parts
from src.data.files.part import SPLITS as SPLITS
from src.data.files.part import Part
from src.data.hub_rows import hub_parts
from src.data.report import RowReport as RowReport
from src.data.source import Read, Reader, Source, hash_of
from src.errors import UserError


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
        return hash_of([source.fingerprint() for source in self.members])

    def check_unchanged(self) -> None:
        """Check each source; see ``Source``."""
        for source in self.members:
            source.check_unchanged()

    def read_by(self, reader: Reader) -> "Mixture":
        """Return these sources with their rows read as something else."""
        return Mixture(self.config, [source.read_by(reader) for source in self.members])

    def conversations(self, report: RowReport) -> Iterator[tuple[str, Conversation]]:
        """Yield the conversations of each source in turn; see ``Source``."""
        for source in self.members:
            yield from source.conversations(report)

    def read(self, report: RowReport, may_lack: bool = False) -> Iterator[tuple[str, Read]]:
        """Yield the rows of each source in turn; see ``Source``."""
        for source in self.members:
            yield from source.read(report, may_lack)


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
    if config.path is not None:
        raise UserError(f"data.path={config.path}: the embedded rows have no path; add data=file")
    name = config.name or "conversations"
    if name not in EMBEDDED:
        raise UserError(
            f"data.name={config.name}: the embedded rows are {' or '.join(EMBEDDED)}; for your own "
            f"add data=file"
        )
    rows = _embedded(name)
    part = Part(EMBEDDED[name], None, lambda: enumerate(rows, 1), "row")
    return [part], _embedded_hash(name)


EMBEDDED = {
    "conversations": "the embedded corpus",
    "demonstrations": "the embedded demonstrations",
}


def _embedded(name: str) -> Sequence[Mapping[str, Any]]:
    if name == "demonstrations":
        from src.data.sample.demonstrations import demonstration_rows

        return demonstration_rows()
    from src.data.sample import sample_rows

    return sample_rows()


@cache
def _embedded_hash(name: str) -> str:
    return hash_of(_embedded(name))
