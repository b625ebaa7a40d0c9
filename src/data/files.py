"""Rows of a local file, read strictly: an error names the file and the line.

The ``datasets`` reader gives up on a whole file at the first bad line without saying where, and
turns a missing field, ``NA`` or an ISO date into something else without a word.
"""

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from src.errors import UserError

Rows = Iterator[dict[str, Any]]


def read_rows(path: Path) -> Rows:
    """Yield the rows of a ``.json``, ``.jsonl``, ``.csv`` or ``.parquet`` file (``.gz`` too).

    Raises:
        UserError: the file is missing, of another kind, or broken; names the file and the line.
    """
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; set data.path to an existing file")
    suffixes = [suffix.lower() for suffix in path.suffixes]
    gzipped = suffixes[-1:] == [".gz"]
    kind = (suffixes[:-1] if gzipped else suffixes)[-1:]
    reader = READERS.get(kind[0] if kind else "")
    if reader is None or (gzipped and reader is _parquet):
        raise UserError(
            f"{path}: cannot read this kind of file; use .json, .jsonl, .csv (each also .gz) "
            f"or .parquet"
        )
    yield from reader(path)


@contextmanager
def _open_text(path: Path) -> Iterator[IO[str]]:
    opener = gzip.open if path.suffix.lower() == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            yield file
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise UserError(f"{path}: the gzip file is broken: {error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text: {error.reason}; convert it to UTF-8") from error


def _object(value: Any, path: Path, kind: str, number: int) -> dict[str, Any]:
    if not isinstance(value, dict):
        where = f"{path}, {kind} {number}"
        raise UserError(f"{where}: expected an object like {{...}}, found {type(value).__name__}")
    return value


def _jsonl(path: Path) -> Rows:
    with _open_text(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:  # or a number of 5,000 digits
                raise UserError(
                    f"{path}, line {number}: not valid JSON: {error}; mend or remove it"
                ) from error
            yield _object(value, path, "line", number)


def _json(path: Path) -> Rows:
    with _open_text(path) as file:
        text = file.read()
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}, line {error.lineno}: not valid JSON: {error.msg}; mend it, or name the "
            f"file .jsonl if it holds one object a line"
        ) from error
    except (ValueError, RecursionError) as error:  # nested too deeply, or a number of 5,000 digits
        raise UserError(f"{path}: not usable JSON: {error}") from error
    if not isinstance(value, list):
        raise UserError(f"{path}: expected a list of rows, found {type(value).__name__}")
    for number, row in enumerate(value, start=1):
        yield _object(row, path, "row", number)


def _csv(path: Path) -> Rows:
    with _open_text(path) as file:
        csv.field_size_limit(2**31 - 1)  # the default refuses texts over 131,072 characters
        reader = csv.reader(file, strict=True)
        header: list[str] | None = None
        while True:
            first_line = reader.line_num + 1
            try:
                fields = next(reader, None)
            except csv.Error as error:
                raise UserError(f"{path}, line {first_line}: not valid CSV: {error}") from error
            if fields is None:
                return
            if not fields:
                continue
            if header is None:
                header = fields
            elif len(fields) != len(header):
                raise UserError(
                    f"{path}, line {first_line}: {len(fields)} fields, but the header has "
                    f"{len(header)}; quote fields that hold commas or line breaks"
                )
            else:
                yield dict(zip(header, fields, strict=True))


def _parquet(path: Path) -> Rows:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=8192):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a readable Parquet file: {error}") from error


READERS: dict[str, Callable[[Path], Rows]] = {
    ".json": _json,
    ".jsonl": _jsonl,
    ".csv": _csv,
    ".parquet": _parquet,
}
