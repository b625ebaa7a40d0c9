"""A folder appears complete or not at all, and replaces another only where a person allows it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from src.errors import UserError
from src.files import atomic, disk


@contextmanager
def new_folder(
    folder: Path, overwrite: bool, key: str = "output", size: int | None = None
) -> Iterator[Path]:
    """Yield an empty folder to write files into; in the end it becomes ``folder``.

    After an exception, ``folder`` is as it was. With ``overwrite`` an older ``folder`` is replaced,
    provided that the new one replaces every file in it. ``size`` is about how many bytes it takes.

    Raises:
        UserError: ``folder`` exists and may not be replaced, or cannot be written; names ``key``.
    """
    _check_free(folder, overwrite, key)
    target = folder.resolve()  # a link to a folder remains a link
    try:
        with atomic.folder(target, size=size, sweeps=_is_ours(target.parent)) as building:
            yield building
            _check_nothing_foreign(folder, {path.name for path in building.iterdir()}, key)
    except disk.Unwritten as error:
        raise UserError(f"{key}={folder}: cannot be written: {disk.reason(error)}") from error
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise UserError(
            f"{key}={folder}: cannot be written: {disk.reason(error)}{where}"
        ) from error


def _is_ours(folder: Path) -> bool:
    """Whether a folder is where exports go unasked, and no person's own."""
    return folder.name == "export" and folder.parent.name == "outputs"


def _check_free(folder: Path, overwrite: bool, key: str) -> None:
    if os.path.lexists(folder) and not folder.is_dir():
        raise UserError(f"{key}={folder} is a file: name a folder")
    if not overwrite and folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{key}={folder} is there already: name another, or add overwrite=true")


def _check_nothing_foreign(folder: Path, names: set[str], key: str) -> None:
    """Check that ``folder`` holds only files of ``names``."""
    if not folder.is_dir():
        return
    foreign = sorted(
        path.name for path in folder.iterdir() if path.name not in names or path.is_dir()
    )
    if foreign:
        raise UserError(
            f"{key}={folder} holds {foreign[0]}, which this export does not write, so it is not "
            f"replaced: name another folder"
        )
