"""Rows of Parquet and Arrow files and of ``save_to_disk`` folders, read by pyarrow in batches."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from src.data.files.part import Part, Record
from src.data.files.unpacking import Stored, on_disk
from src.errors import UserError

BATCH_SIZE = 1024  # rows
ARROW_STREAM = b"\xff\xff\xff\xff"
MAGIC = {b"PAR1": "Parquet", b"ARROW1": "Arrow", ARROW_STREAM: "Arrow stream"}


def columnar_kind(head: bytes) -> str | None:
    """Return which columnar file begins with ``head``, or None."""
    return next((kind for magic, kind in MAGIC.items() if head.startswith(magic)), None)


def columnar_part(stored: Stored, kind: str) -> Part:
    """Return the rows of a columnar file."""
    return Part(stored.name, None, partial(_records, [stored], kind), "row")


def is_saved_dataset(folder: Path) -> bool:
    """Whether ``datasets`` has written ``folder`` with ``save_to_disk``."""
    return (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()


def saved_files(folder: Path) -> list[Path]:
    """Return the Arrow files of a ``save_to_disk`` folder, in their order.

    Raises:
        UserError: its ``state.json`` is broken, or a file is missing.
    """
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        files = [folder / file["filename"] for file in state["_data_files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder / 'state.json'}: not what save_to_disk writes: {error}"
        ) from error
    for file in files:
        if not file.is_file():
            raise UserError(f"{file}: a file of this saved data set is missing; save it again")
    return files


def saved_part(folder: Path, split: str | None) -> Part:
    """Return the rows of a ``save_to_disk`` folder of one split."""
    files = [on_disk(path) for path in saved_files(folder)]
    return Part(str(folder), split, partial(_records, files, "Arrow stream"), "row")


def _records(files: list[Stored], kind: str) -> Iterator[Record]:
    number = 0
    for stored in files:
        for row in _rows(stored, kind):
            number += 1
            yield number, row


def _rows(stored: Stored, kind: str) -> Iterator[dict[str, Any]]:
    import pyarrow

    try:
        with stored.seekable() as file:
            for batch in _batches(file, kind, stored.name):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        text = " ".join(str(error).split())
        raise UserError(f"{stored.name}: not a readable {kind} file: {text}") from error


def _batches(file: Any, kind: str, name: str) -> Iterator[Any]:
    import pyarrow
    import pyarrow.parquet

    if kind == "Parquet":
        with pyarrow.parquet.ParquetFile(file) as parquet:
            _check_names(parquet.schema_arrow.names, name)
            yield from parquet.iter_batches(batch_size=BATCH_SIZE)
        return
    reader = pyarrow.ipc.open_file(file) if kind == "Arrow" else pyarrow.ipc.open_stream(file)
    with reader:
        _check_names(reader.schema.names, name)
        numbers = range(reader.num_record_batches) if kind == "Arrow" else None
        batches = map(reader.get_batch, numbers) if numbers is not None else reader
        for batch in batches:
            for start in range(0, batch.num_rows, BATCH_SIZE):
                yield batch.slice(start, BATCH_SIZE)


def _check_names(names: list[str], file: str) -> None:
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f'{file}: two columns are called "{twice[0]}": rename or remove one')
