"""Bytes as text: by the mark at their start, else as UTF-8, else as a person says.

charset-normalizer guesses what text that is not UTF-8 may be. A guess is only said, never used: on
short texts it is often wrong, and a wrong one misreads without a word.
"""

import codecs
import io
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import TextIO

from src.data.files.part import Broken
from src.data.files.unpacking import DAMAGE, Stored, damage
from src.errors import UserError

MARKS = [  # the longest first: that of UTF-32 begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
]
USUAL = (
    *("cp1252", "cp1251", "cp1250", "koi8_r", "gb18030", "big5", "shift_jis", "euc_jp", "euc_kr"),
    *("cp1253", "cp1254", "cp1255", "cp1256", "mac_roman", "cp850"),
)
WESTERN = "àâäãåáæçéèêëíîïñóôöõúûüß‘’“”–—…€£«»¿¡°"  # short texts are taken for others
SHOWN = 40  # characters of a line that are read as a guess says
LONGEST_LINE = 1 << 26  # characters: what is longer is no row, and would fill the memory
TOO_LONG = f"a line of more than {LONGEST_LINE:,} characters: this is no row"


class LineTooLong(Exception):
    """A line that nobody can want to read whole."""


def lines_of(file: TextIO) -> Iterator[str]:
    """Yield the lines of ``file``; a longer one is not in memory at any time.

    Raises:
        LineTooLong: at a line of ``LONGEST_LINE`` characters or more.
    """
    while line := file.readline(LONGEST_LINE):
        if len(line) == LONGEST_LINE:
            raise LineTooLong(TOO_LONG)
        yield line


STOPS = (*DAMAGE, UnicodeDecodeError, LineTooLong)  # what ends the reading of a file


def end_of_reading(error: BaseException) -> str:
    """Return why a text cannot be read further."""
    if isinstance(error, LineTooLong):
        return str(error)
    if isinstance(error, UnicodeDecodeError):
        return f"not {error.encoding.upper()} text from here on: {error.reason}"
    return damage(error)


def broken_end(error: BaseException) -> Broken:
    """Return what stands where a text cannot be read further."""
    of_disk = isinstance(error, OSError) and error.errno is not None
    return Broken(end_of_reading(error), of_disk)


def skip_line(file: TextIO) -> None:
    """Go behind the end of the line, of which a part has been read."""
    while (piece := file.readline(LONGEST_LINE)) and not piece.endswith(("\n", "\r")):
        pass


def check_encoding(name: str) -> None:
    """Check that Python knows a text encoding of this name.

    Raises:
        UserError: it does not.
    """
    try:
        known = codecs.lookup(name)._is_text_encoding
    except (LookupError, ValueError):
        known = False
    if not known:
        raise UserError(
            f"data.encoding={name}: there is no such encoding; usual ones are utf-8, cp1252, "
            f"latin-1, utf-16, gb18030, shift_jis, koi8-r"
        )


@dataclass
class Text:
    """A file as text, and what to say of bytes that are none.

    ``open`` gives bad bytes as lone surrogates, so that one bad line does not end the reading.
    """

    stored: Stored
    encoding: str  # of Python
    is_named: bool  # whether a person or the file itself said so
    guess: str | None = field(default=None, init=False)

    def open(self) -> TextIO:
        """Return the text, with its line breaks as they are."""
        wide = self.encoding.replace("-", "_").lower().startswith(("utf_16", "utf_32"))
        errors = "strict" if wide else "surrogateescape"
        return io.TextIOWrapper(self.stored.open(), self.encoding, errors=errors, newline="")

    def complaint(self, line: str) -> str | None:
        """Return what is wrong with the bytes of ``line``, or None."""
        if line.isascii():
            return None
        try:
            line.encode()
        except UnicodeEncodeError as error:
            byte = ord(line[error.start]) - 0xDC00
            if byte < 128:  # half a character that was written as one
                return None
            found = f"byte 0x{byte:02x}"
            name = self.encoding.removesuffix("-sig").upper()
            if self.guess is None:
                self.guess = "" if self.is_named else self._guess(line)
            return f"not {name} text ({found}){self.guess}"
        return None

    def _guess(self, line: str) -> str:
        content = line.encode(self.encoding, "surrogateescape")
        guess = guess_encoding(content)
        if guess is None:
            return "; name its encoding with data.encoding=..."
        start = max(next(i for i, byte in enumerate(content) if byte > 127) - SHOWN // 2, 0)
        shown = content.decode(guess)[start : start + SHOWN].strip()
        return f"; it looks like {guess}, in which it reads {shown!r}: set data.encoding={guess}"


def as_text(stored: Stored, head: bytes, encoding: str | None) -> Text:
    """Return ``stored`` as text; a mark at its start counts more than ``encoding``.

    Raises:
        UserError: it is UTF-16 without a mark, and no ``encoding`` says so.
    """
    for mark, name in MARKS:
        if head.startswith(mark):
            return Text(stored, name, is_named=name != "utf-8-sig")
    if encoding is None and (wide := _wide(head)):
        raise UserError(
            f"{stored.name}: this looks like {wide} without the mark that says so: set "
            f"data.encoding={wide}"
        )
    return Text(stored, encoding or "utf-8", is_named=encoding is not None)


def _wide(head: bytes) -> str | None:
    """Return which UTF-16 it is, if every other byte is zero."""
    pairs = len(head) // 2
    zeros = [head[first : 2 * pairs : 2].count(0) for first in (0, 1)]
    if pairs and max(zeros) > 0.4 * pairs and min(zeros) < 0.05 * pairs:
        return "utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"
    return None


def guess_encoding(content: bytes) -> str | None:
    """Return an encoding in which ``content`` is likely text, or None."""
    from charset_normalizer import from_bytes

    guesses = [m.encoding for m in from_bytes(content, cp_isolation=list(USUAL))]
    western = _decoded(content, "cp1252")
    if western and all(letter.isascii() or letter.lower() in WESTERN for letter in western):
        return "cp1252"
    readable = [name for name in guesses if not _mixes_scripts(content.decode(name))]
    if readable and _decoded(content, readable[0]) == western:
        return "cp1252"  # the most usual of those that read it so
    if readable:
        return readable[0]
    return "cp1252" if western and not _mixes_scripts(western) else None


def _decoded(content: bytes, encoding: str) -> str | None:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError:
        return None


def _mixes_scripts(text: str) -> bool:
    """Whether a word has letters of two scripts, as no word has that was decoded rightly."""
    words = ("".join(group) for letter, group in groupby(text, str.isalpha) if letter)
    return any(len({_script(letter) for letter in word}) > 1 for word in words)


def _script(letter: str) -> str:
    name = unicodedata.name(letter, "")
    return "CJK" if name.startswith(("CJK", "HIRAGANA", "KATAKANA", "HANGUL")) else name.split()[0]
