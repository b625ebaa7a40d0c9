"""Which files a person means: a path, several, a pattern, a folder.

The files of a folder or pattern are taken for the split that their names say, as the hub does:
``train.jsonl``, ``data/validation-00000-of-00002.parquet``, ``test/part-1.csv``.
"""

import glob
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from src.data.files import foreign
from src.data.files.columnar import is_saved_dataset
from src.data.files.part import SPLIT_NAMES, TRAIN
from src.errors import UserError
from src.hub import is_hub_name
from src.wording.nearest import nearest_path

ROWS_SUFFIXES = {
    *(".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow", ".feather"),
    *(".gz", ".bz2", ".xz", ".zst", ".zstd", ".lz4", ".zip"),
}
NO_ROWS = {  # files that lie beside the rows of a data set
    *("dataset_infos.json", "dataset_info.json", "state.json", "dataset_dict.json"),
    *("package.json", "package-lock.json", "metadata.json", "config.json", "croissant.json"),
}


@dataclass(frozen=True)
class Place:
    """A file, or a ``save_to_disk`` folder, and the split that its name says."""

    path: Path
    split: str | None = None


def find_places(names: str | Sequence[str], key: str) -> list[Place]:
    """Return the files that ``names`` means, in order.

    Args:
        names: paths, patterns or folders; a comma separates several, unless the whole exists.
        key: of the config, for messages.

    Raises:
        UserError: there is nothing of that name.
    """
    if not isinstance(names, str):
        return [place for name in names for place in find_places(name, key)]
    path = Path(names).expanduser()
    if path.is_file():
        return [Place(path)]
    if path.is_dir():
        return _in_folder(path, key)
    if glob.has_magic(names):
        matches = sorted(map(Path, glob.glob(str(path), recursive=True)))
        files = [match for match in matches if match.is_file()]
        files = [file for file in files if file.suffix.lower() not in foreign.SUFFIXES] or files
        if not files:  # a pattern of folders
            return [place for match in matches for place in _in_folder(match, key)] or _none(
                names, key
            )
        return _with_splits(files, _common(files))
    pieces = [piece.strip() for piece in names.split(",")]
    if len(pieces) > 1 and all(pieces):
        return [place for piece in pieces for place in find_places(piece, key)]
    return _none(names, key)


def _none(name: str, key: str) -> list[Place]:
    path = Path(name).expanduser()
    if "://" in name:
        raise UserError(f"{key}={name}: this is an address: download the file and name it")
    if path.is_symlink():
        raise UserError(f"{key}={name}: a link to {path.readlink()}, which does not exist")
    if path.exists():
        raise UserError(f"{key}={name}: neither a file nor a folder; name a file of rows")
    near = nearest_path(path)
    hint = f"did you mean {shlex.quote(near)}?" if near else "name an existing one"
    if not near and not path.suffix and not path.parent.is_dir() and is_hub_name(name):
        hint = "for a data set of the hub add data.source=hub"
    raise UserError(f"{key}={name}: there is no such file or folder; {hint}")


def _common(files: Sequence[Path]) -> Path:
    """Return the folder that holds all of ``files``."""
    first, *others = (set(file.parents) for file in files)
    return max(first.intersection(*others), key=lambda folder: len(folder.parts))


def _in_folder(folder: Path, key: str) -> list[Place]:
    """Return the files of rows in ``folder``, in all depths.

    Raises:
        UserError: there are none.
    """
    if is_saved_dataset(folder):
        return [Place(folder)]
    saved = sorted(path for path in folder.iterdir() if path.is_dir() and is_saved_dataset(path))
    if saved:
        return _with_splits(saved, folder)
    files = sorted(_data_files(folder))
    if not files:
        raise UserError(
            f"{key}={folder}: no file of rows in this folder; looked for "
            f"{', '.join(sorted(ROWS_SUFFIXES))}"
        )
    return _with_splits(files, folder)


def _data_files(folder: Path) -> Iterator[Path]:
    for path in _all_in(folder):
        hidden = any(part.startswith((".", "_")) for part in path.relative_to(folder).parts)
        if hidden or not path.is_file() or path.name in NO_ROWS:
            continue
        if path.suffix.lower() in ROWS_SUFFIXES:
            yield path


def _all_in(folder: Path) -> Iterator[Path]:
    """Yield all files below ``folder``; ``rglob`` passes over a folder that may not be read."""

    def refuse(error: OSError) -> None:
        raise error

    for place, _, names in os.walk(folder, onerror=refuse):
        yield from (Path(place, name) for name in names)


def _with_splits(paths: Sequence[Path], folder: Path) -> list[Place]:
    splits = [split_of_name(str(path.relative_to(folder))) for path in paths]
    if not any(split in (None, TRAIN) for split in splits):
        splits = [None] * len(paths)  # a folder of test.jsonl alone is meant to be trained on
    return [Place(path, split) for path, split in zip(paths, splits, strict=True)]


def split_of_name(name: str) -> str | None:
    """Return the split that a path says: the word nearest to its end decides."""
    words = re.split(r"[^a-zA-Z]+", name.lower())
    return next((SPLIT_NAMES[word] for word in reversed(words) if word in SPLIT_NAMES), None)
