"""The values of ``conf/data``: types and ranges, no defaults."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

from src.checks import above, at_least, check, one_of, within
from src.data.files.text import check_encoding
from src.data.template import SUPERVISE_MODES
from src.errors import UserError
from src.hub import is_hub_name

SOURCES = ("hub", "file", "sample")
ON_BAD_ROW = ("stop", "skip")


@dataclass
class DataConfig:
    """What ``conf/data`` holds; its comments say what each value means."""

    source: Annotated[str, one_of(SOURCES)]
    path: Any  # text, or a list of texts
    name: str | None
    sources: Any  # a list of what ``SourceConfig`` holds
    train_split: str | None
    validation_split: str | None
    test_split: str | None
    validation_fraction: Annotated[float, within("[0, 0.5)")]
    test_fraction: Annotated[float, within("[0, 0.5)")]
    share: Any  # a list of numbers
    part: Annotated[int | None, at_least(1).or_null("for all rows")]
    columns: Any  # names of columns by their roles
    encoding: str | None
    on_bad_row: Annotated[str, one_of(ON_BAD_ROW)]
    max_rows: Annotated[int | None, at_least(1).or_null("for all")]
    block_size: Annotated[int | None, at_least(8)]
    packing: bool
    isolate_documents: bool
    reset_positions: bool
    supervise: Annotated[str, one_of(SUPERVISE_MODES)]
    prompt_loss_weight: Annotated[float, within("[0, 1]")]
    join_turns: Annotated[float, within("[0, 1]")]
    corpus_dir: str
    num_workers: Annotated[int, at_least(0)]

    def __post_init__(self) -> None:
        """Check ranges; raise UserError naming the key."""
        path, sources, columns = self.path, self.sources, self.columns
        self.path = self.sources = self.columns = None  # their types are checked here
        check(self, "data.")
        self.share = _share(self.share, self.part)
        self.path, self.sources = _names(path, "data.path"), sources
        self.columns = _column_names(columns, "data.columns")
        if self.encoding is not None:
            check_encoding(self.encoding)
        if self.sources is not None:
            self.mixture()
        elif self.source != "sample" and not self.path:
            raise UserError("data.path is missing: name a file, for example data.path=rows.jsonl")

    def mixture(self) -> "list[SourceConfig]":
        """Return what ``sources`` lists.

        Raises:
            UserError: an entry has an unknown key or a wrong value, or ``path`` is set too.
        """
        if not isinstance(self.sources, list) or not self.sources:
            raise UserError(
                "data.sources: must be a list, as in data.sources=[{path: a.jsonl}, {path: b.csv}]"
            )
        if self.source == "sample":
            raise UserError("data.sources: the embedded rows are a source alone; add data=file")
        if self.source == "file" and self.path:
            raise UserError("data.path and data.sources: set one of them")
        if named := self.validation_split or self.test_split:
            raise UserError(
                f"data.validation_split or data.test_split is {named}: with data.sources each "
                f"source names its own, as in {{path: a.jsonl, validation_split: b.jsonl}}"
            )
        return [
            SourceConfig.of(entry, f"data.sources[{i}]") for i, entry in enumerate(self.sources)
        ]


@dataclass
class SourceConfig:
    """One entry of ``data.sources``; what it leaves out is as in ``conf/data``."""

    path: Any
    source: Annotated[str | None, one_of(("hub", "file"))] = None  # None: whether the path exists
    name: str | None = None
    split: str | None = None
    validation_split: str | None = None
    test_split: str | None = None
    columns: dict[str, str] | None = None
    encoding: str | None = None
    max_rows: Annotated[int | None, at_least(1).or_null("for all")] = None
    weight: Annotated[float, above(0)] = 1.0
    label: str | None = None

    @classmethod
    def of(cls, values: Any, key: str) -> "SourceConfig":
        """Return the entry that ``values`` holds.

        Raises:
            UserError: names ``key`` and what is wrong.
        """
        if isinstance(values, str):
            values = {"path": values}
        known = [field.name for field in fields(cls)]
        if not isinstance(values, dict) or not values.get("path"):
            raise UserError(f"{key}: must be an object with a path, as in {{path: a.jsonl}}")
        if unknown := sorted(set(values) - set(known)):
            raise UserError(f"{key}.{unknown[0]}: no such key; there are {', '.join(known)}")
        for name in ("max_rows", "weight"):
            value = values.get(name)
            kinds = (int,) if name == "max_rows" else (int, float)
            if value is not None and (isinstance(value, bool) or not isinstance(value, kinds)):
                raise UserError(f"{key}.{name}={value}: must be a number")
        for name in ("name", "split", "validation_split", "test_split", "encoding", "label"):
            if not isinstance(values.get(name), str | None):
                values = values | {name: str(values[name])}
        if values.get("columns") is not None:
            values = values | {"columns": _column_names(values["columns"], f"{key}.columns")}
        entry = cls(**{name: value for name, value in values.items() if value is not None})
        path = entry.path
        entry.path = None
        check(entry, f"{key}.")
        entry.path = _names(path, f"{key}.path")
        return entry

    def in_place_of(self, config: DataConfig) -> DataConfig:
        """Return ``config`` for this source alone."""
        return replace(
            config,
            source=self.source or ("hub" if self._is_hub() else "file"),
            path=self.path,
            sources=None,
            name=self.name,
            train_split=self.split,
            validation_split=self.validation_split,
            test_split=self.test_split,
            columns=self.columns or config.columns,
            encoding=self.encoding or config.encoding,
            max_rows=self.max_rows or config.max_rows,
        )

    def _is_hub(self) -> bool:
        name = self.path
        if not isinstance(name, str) or Path(name).expanduser().exists():
            return False
        looks_like_files = (
            any(sign in name for sign in "*?[,") or Path(name).suffix in FILE_SUFFIXES
        )
        return is_hub_name(name) and not looks_like_files


def _share(value: Any, part: int | None) -> list[float] | None:
    """Return ``data.share``, checked beside ``data.part``."""
    if value is None and part is None:
        return None
    if value is None or part is None:
        one, other = ("part", "share") if value is None else ("share", "part")
        raise UserError(
            f"data.{one} is set and data.{other} is not: set both, as in "
            f"data.share=[0.2,0.4,0.4] data.part=1"
        )
    numbers = isinstance(value, list) and all(
        isinstance(n, (int, float)) and not isinstance(n, bool) and 0 < n <= 1 for n in value
    )
    if not value or not numbers or sum(value) > 1 + 1e-6:
        raise UserError(
            f"data.share={value}: must be a list of shares of the rows, at most 1 together, as in "
            f"data.share=[0.2,0.4,0.4]"
        )
    if part > len(value):
        raise UserError(f"data.part={part}: data.share has {len(value)} parts, 1 to {len(value)}")
    return [float(n) for n in value]


FILE_SUFFIXES = {".json", ".jsonl", ".csv", ".tsv", ".parquet", ".arrow", ".gz", ".zst", ".zip"}


def _column_names(value: Any, key: str) -> dict[str, str] | None:
    """Return the name of the column of each role."""
    if value is None:
        return None
    if not isinstance(value, dict):
        raise UserError(f"{key}: must be an object, as in {key}={{prompt: question}}")
    for role, name in value.items():
        if isinstance(name, bool) or not isinstance(name, (str, int, float)) or name == "":
            raise UserError(f"{key}.{role}={name}: must be the name of a column")
    return {str(role): str(name) for role, name in value.items()}


def _names(value: Any, key: str) -> Any:
    """Return a path as text, or several as a list of texts."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list):
        if not value:
            raise UserError(f"{key}=[]: name at least one file")
        return [_names(item, key) for item in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # a file that is called 2024
    raise UserError(f"{key}={value}: must be a path or a list of paths")
