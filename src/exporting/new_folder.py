"""A folder appears whole or not at all, and takes no other folder's place unasked."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from src import atomic
from src.errors import UserError


@contextmanager
def new_folder(folder: Path, overwrite: bool, key: str = "output") -> Iterator[Path]:
    """Yield an empty folder to write files into; in the end it becomes ``folder``.

    If anything is raised meanwhile, nothing is left of it and ``folder`` is as it was. With
    ``overwrite`` an older ``folder`` is replaced, provided that it holds no file but such as were
    written now.

    Raises:
        UserError: ``folder`` is there and may not be replaced, or cannot be written; names ``key``.
    """
    _check_free(folder, overwrite, key)
    place = folder.resolve()  # a link to a folder stays one
    try:
        with atomic.folder(place) as building:
            yield building
            written = {path.name for path in building.iterdir()}
            _check_nothing_foreign(folder, written, key)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise UserError(
            f"{key}={folder}: cannot be written: {error.strerror or error}{where}"
        ) from error


def _check_free(folder: Path, overwrite: bool, key: str) -> None:
    if os.path.lexists(folder) and not folder.is_dir():
        raise UserError(f"{key}={folder} is a file: name a folder")
    if not overwrite and folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{key}={folder} is there already: name another, or add overwrite=true")


def _check_nothing_foreign(folder: Path, written: set[str], key: str) -> None:
    if not folder.is_dir():
        return
    foreign = sorted(
        path.name for path in folder.iterdir() if path.name not in written or path.is_dir()
    )
    if foreign:
        raise UserError(
            f"{key}={folder} holds {foreign[0]}, which this export does not write, so it is not "
            f"replaced: name another folder"
        )
