"""Where rows come from: a hub dataset, a local file, or the embedded corpus.

A source yields ``(split, conversation)`` pairs; a ``RowReport`` counts the rows it cannot use.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from src.data.config import DataConfig
from src.data.conversation import Conversation, Row, RowReader, UnusableRow
from src.data.files import read_rows
from src.data.report import RowReport as RowReport
from src.data.report import prompt_hash
from src.errors import UserError
from src.hub import first_line, is_hub_name, probe_hub

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Part:
    """Rows of one file or hub split. ``split`` None: the key "split" of each row."""

    name: str
    split: str | None
    rows: Callable[[], Iterable[Row]]


class Source:
    """The rows of one dataset, with the split that each conversation belongs to.

    A split without its own rows gets a share of train's, by a hash of the first prompt: equal
    prompts are always in the same split.
    """

    def __init__(self, config: DataConfig, parts: list[Part], content_hash: str):
        self.config = config
        self.parts = parts
        self.content_hash = content_hash
        splits = set(SPLITS) if parts[0].split is None else {part.split for part in parts}
        self.test_fraction = 0.0 if "test" in splits else config.test_fraction
        self.validation_fraction = 0.0 if "validation" in splits else config.validation_fraction

    def fingerprint(self) -> str:
        """Return a hash of the rows and of everything that decides their conversations."""
        facts = [
            self.content_hash,
            self.config.columns,
            self.config.max_rows,
            self.test_fraction,
            self.validation_fraction,
        ]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def conversations(self, report: RowReport) -> Iterator[tuple[str, Conversation]]:
        """Yield ``(split, conversation)`` of every usable row; count all rows in ``report``.

        Raises:
            UserError: the source is empty, broken, or has no recognised columns.
        """
        for part in self.parts:
            reader: RowReader | None = None
            for number, row in enumerate(part.rows(), start=1):
                if reader is None:
                    own = ("split",) if part.split is None else ()
                    reader = RowReader(list(row), self.config.columns, part.name, own)
                report.read += 1
                try:
                    conversation = reader(row)
                except UnusableRow as problem:
                    report.drop(problem.reason, f"{part.name} row {number}", problem.found)
                    continue
                if reader.unused:
                    report.not_used(reader.unused, f"{part.name} row {number}")
                split = self._split(part.split or row["split"], conversation.turns[0][0])
                if self.config.max_rows and report.used[split] >= self.config.max_rows:
                    report.dropped["over_max_rows"] += 1
                    continue
                report.used[split] += 1
                yield split, conversation
            if reader is not None:
                reader.finish()
        if not report.used["train"]:
            reasons = "; ".join(report.explain())
            raise UserError(
                f"{self.parts[0].name}: no usable training rows among {report.read:,}"
                + (f" ({reasons})" if reasons else "; the dataset is empty")
            )

    def _split(self, split: str, prompt: str) -> str:
        if split != "train" or not (self.test_fraction or self.validation_fraction):
            return split
        share = prompt_hash(prompt) / 2**64
        if share < self.test_fraction:
            return "test"
        if share < self.test_fraction + self.validation_fraction:
            return "validation"
        return "train"


def open_source(config: DataConfig) -> Source:
    """Open the source of ``config``; its rows are read later.

    Raises:
        UserError: the file or hub dataset cannot be opened.
    """
    if config.source == "hub":
        return _hub(config)
    return _file(config) if config.source == "file" else _sample(config)


def _sample(config: DataConfig) -> Source:
    from src.data.sample import sample_rows

    if config.path is not None:
        raise UserError(f"data.path={config.path}: the embedded rows have no path; add data=file")
    rows = list(sample_rows())
    content = hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()
    return Source(config, [Part("the embedded corpus", None, lambda: rows)], content)


def _file(config: DataConfig) -> Source:
    assert config.path is not None
    parts, content = [], hashlib.sha256()
    for split, name in _names(config, config.path):
        path = Path(name).expanduser()
        if not path.is_file():
            key = "path" if split == "train" else f"{split}_split"
            raise UserError(f"data.{key}={name}: there is no such file; name an existing one")
        with path.open("rb") as file:
            content.update(hashlib.file_digest(file, "sha256").digest() + split.encode())
        parts.append(Part(str(path), split, partial(read_rows, path)))
    return Source(config, parts, content.hexdigest())


def _names(config: DataConfig, train: str) -> Iterator[tuple[str, str]]:
    """Yield each split that has rows, with the name of its file or hub split."""
    for split, name in zip(
        SPLITS, (train, config.validation_split, config.test_split), strict=True
    ):
        if name is not None:
            yield split, name


def _hub(config: DataConfig) -> Source:
    assert config.path is not None
    if not is_hub_name(config.path) or Path(config.path).is_file():
        raise UserError(f"data.path={config.path} is no hub name; for a file say data=file")
    if problem := probe_hub():
        _load_from_cache_only()
        hint = (
            f"data.path={config.path} is not in the local cache and {problem}: use a file with "
            f"data=file data.path=..., the embedded corpus with data=sample, or download it once "
            f"where there is a network"
        )
    else:
        hint = f"data.path={config.path}: the hub did not give this dataset"

    import datasets  # seconds to import: only when needed
    import httpx2

    parts, prints = [], []
    for split, name in _names(config, config.train_split or "train"):
        try:
            rows = datasets.load_dataset(config.path, split=name)
        except ValueError as error:
            raise UserError(
                f"data.{split}_split={name} of {config.path}: {first_line(error)}"
            ) from error
        except (datasets.exceptions.DatasetsError, httpx2.HTTPError, OSError) as error:
            raise UserError(f"{hint} ({first_line(error)})") from error
        prints.append([split, rows._fingerprint, len(rows)])
        parts.append(Part(f"{config.path}[{name}]", split, partial(_hub_rows, rows)))
    return Source(config, parts, hashlib.sha256(json.dumps(prints).encode()).hexdigest())


def _hub_rows(rows: Any) -> Iterator[Row]:
    for batch in rows.iter(batch_size=1000):
        for values in zip(*batch.values(), strict=True):
            yield dict(zip(batch, values, strict=True))


def _load_from_cache_only() -> None:
    """Switch both libraries to their caches: they read HF_HUB_OFFLINE only when imported."""
    import datasets.config
    import huggingface_hub.constants

    datasets.config.HF_HUB_OFFLINE = True
    huggingface_hub.constants.HF_HUB_OFFLINE = True
