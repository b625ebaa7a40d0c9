"""A file of rows, one JSON object a line, which goes on where it ended.

It is read first. Nothing on the disk changes before the first row is written.
"""

import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from src.errors import UserError
from src.files import atomic, disk


class RowFile:
    """The rows of a file, in memory and on the disk.

    A last line that was cut off in writing is no row; the first write removes it. A whole last
    line without its end is a row.

    Args:
        path: of the file.
        key: the setting that names it.
        starts: how the lines that are written here begin: no other line may be cut off.

    Attributes:
        rows: all of them.
        line_numbers: of each row.
        cut_line: the number of the line that was cut off; None: there is none.
        is_lost: whether another program has written, so that nothing can be written here.

    Raises:
        UserError: it holds something else, or cannot be read or written; of the methods that
            write: the disk refuses, or another program has written meanwhile.
    """

    def __init__(self, path: Path, key: str, starts: Sequence[str]):
        self.path, self.key = path, key
        self.rows: list[dict[str, Any]] = []
        self.line_numbers: list[int] = []
        self.cut_line: int | None = None
        self.is_lost = False
        text = self._read()
        self.size = len(text.encode())
        self.cut_size = 0  # bytes of the line that was cut off
        self.lacks_end = not text.endswith("\n") and text != ""
        lines = text.split("\n")
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                if number == len(lines) and any(_is_beginning(line, start) for start in starts):
                    self.cut_line = number
                    self.cut_size = len(line.encode())
                    self.lacks_end = False
                    break
                raise self.mistake(number, "no JSON; name a new file") from error
            if not isinstance(row, dict):
                raise self.mistake(number, "no row; name a new file")
            self.rows.append(row)
            self.line_numbers.append(number)

    def mistake(self, number: int, what: str) -> UserError:
        """Return the error that a line is wrong."""
        return UserError(f"{self.key}={self.path}, line {number}: {what}")

    def append(self, row: dict[str, Any]) -> None:
        """Add a row; it is on the disk then. A file that the disk refuses is as it was."""
        self.check_unchanged()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._mend()
            is_new = not self.path.exists()
            with self.path.open("ab") as file:
                file.write(json.dumps(row).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            if is_new:
                atomic.flush([self.path])  # its name, too
        except OSError as error:
            if self.path.is_file():
                os.truncate(self.path, self.size)
            raise self._unwritten(error) from error
        self.size = _size(self.path)
        self.rows.append(row)

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Put other rows in place of all."""
        self.check_unchanged()
        try:
            text = "".join(json.dumps(row) + "\n" for row in rows)
            atomic.write_text(self.path, text, sweeps=False)
        except OSError as error:
            raise self._unwritten(error) from error
        self.size, self.cut_size, self.lacks_end = _size(self.path), 0, False
        self.rows = rows

    def check_unchanged(self) -> None:
        """Check that nobody else has written since.

        Raises:
            UserError: somebody has.
        """
        if _size(self.path) != self.size:
            self.is_lost = True
            raise UserError(
                f"{self.key}={self.path}: another program has written there meanwhile: end one of "
                f"the two, and start this one anew"
            )

    def check_writable(self) -> None:
        """Check that the file may be written, or made, before anybody has ranked for it.

        Raises:
            UserError: it may not.
        """
        reason = "Permission denied"
        if self.path.exists():
            if not os.access(self.path, os.W_OK):
                raise UserError(f"{self.key}={self.path}: cannot be written: {reason}")
            return
        folder = next(parent for parent in self.path.absolute().parents if parent.exists())
        if not folder.is_dir():
            reason = f"{folder} is a file, not a folder"
        elif os.access(folder, os.W_OK | os.X_OK):
            return
        else:
            reason = f"{folder}: {reason}"
        raise UserError(f"{self.key}={self.path}: cannot be written: {reason}")

    def _mend(self) -> None:
        """Remove the line that was cut off, or end the last one."""
        if self.cut_size:
            os.truncate(self.path, self.size - self.cut_size)
            self.size, self.cut_size = self.size - self.cut_size, 0
        if self.lacks_end:
            with self.path.open("ab") as file:
                file.write(b"\n")
            self.size, self.lacks_end = _size(self.path), False

    def _read(self) -> str:
        try:
            if not self.path.exists():
                return ""
            if not self.path.is_file():
                kind = "a folder" if self.path.is_dir() else "no file"
                raise UserError(
                    f"{self.key}={self.path}: cannot be read: it is {kind}; name a file"
                )
            return self.path.read_bytes().decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{self.key}={self.path}: not UTF-8 text (byte {error.start}); name a new file"
            ) from error
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"{self.key}={self.path}: cannot be read: {reason}") from error

    def _unwritten(self, error: OSError) -> UserError:
        return UserError(f"{self.key}={self.path}: cannot be written: {disk.reason(error)}")


def _is_beginning(line: str, start: str) -> bool:
    return line.startswith(start) or start.startswith(line)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def let_go(lock: FileLock) -> None:
    """Remove the file of the lock while it is held: whoever waits then makes a new one."""
    with contextlib.suppress(OSError):  # Windows keeps the name of an open file
        Path(lock.lock_file).unlink()
    lock.release()
