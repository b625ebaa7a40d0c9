"""Rows of separated text (CSV, TSV), with the separator and the quotes that the file has.

Python's ``csv`` reads it. Its ``Sniffer`` is not used: it counts characters, and texts are full of
commas. Here the dialect is the one in which the most lines of the beginning are records with as
many fields as the header.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import product
from typing import NamedTuple

from src.data.files.part import Broken, Part, Record
from src.data.files.text import LONGEST_LINE, STOPS, Text, broken_end, end_of_reading, lines_of
from src.errors import UserError

SAMPLE = 1 << 16  # characters
SEP_LINE = re.compile(r'"?sep=(.)"?[\r\n]*\Z', re.I | re.S)
TABLE_NAME = re.compile(r"(?i)\.(csv|tsv|tab)\b")
SEPARATORS = ",;\t|"


class Dialect(NamedTuple):
    """How fields are separated and quoted."""

    delimiter: str
    quotechar: str | None
    escapechar: str | None = None

    def reader(self, lines: Iterator[str]):  # type: ignore[no-untyped-def]  # csv names no type
        """Return a reader of ``lines``, which raises csv.Error for a quote out of place."""
        csv.field_size_limit(LONGEST_LINE)  # the default refuses texts over 131,072 characters
        return csv.reader(
            lines,
            delimiter=self.delimiter,
            quotechar=self.quotechar,
            escapechar=self.escapechar,
            doublequote=self.escapechar is None,
            quoting=csv.QUOTE_MINIMAL if self.quotechar else csv.QUOTE_NONE,
            skipinitialspace=True,
            strict=True,
        )


def table_parts(text: Text) -> list[Part]:
    """Return the rows of separated text.

    Raises:
        UserError: it is a plain text, or its header is broken.
    """
    name = text.stored.name
    sample, dialect, sep_line = _look(text)
    header, line = _header(text, dialect, sep_line)
    if not header:
        return []
    if not TABLE_NAME.search(name) and _is_prose(header, sample, dialect):
        shown = header[0][:60]
        raise UserError(
            f"{name}: this is a plain text (it begins with {shown!r}), not rows: write it as JSON "
            f"lines (one object a line), or as CSV with a line of names above the columns"
        )
    return [Part(name, None, partial(_records, text, dialect, header, line))]


def is_table(text: Text) -> bool:
    """Whether a text has columns: most of its lines have as many fields as the first."""
    sample, dialect, sep_line = _look(text)
    return sep_line or not _is_prose(["", ""], sample, dialect)


def _look(text: Text) -> tuple[str, Dialect, bool]:
    """Return the beginning after a ``sep=`` line, its dialect, and whether there is such a line."""
    try:
        with text.open() as file:
            sample = file.read(SAMPLE)
            whole = not file.read(1)
    except STOPS as error:
        raise UserError(f"{text.stored.name}: {end_of_reading(error)}") from error
    first, *_ = sample.splitlines(keepends=True) or [""]
    sep_line = SEP_LINE.match(first)
    sample = sample[len(first) :] if sep_line else sample
    return sample, find_dialect(sample, whole, sep_line, text.stored.name), bool(sep_line)


def _is_prose(header: list[str], sample: str, dialect: Dialect) -> bool:
    """Whether a text of no known kind has no columns, but a comma here and there."""
    if len(header) == 1:
        return header[0] != "text"
    lines = [line for line in sample.splitlines(keepends=True) if line.strip()]
    several, fitting, _ = _score(lines, dialect)
    return not several or 2 * (fitting - 1) < len(lines) - 1


def find_dialect(
    sample: str, whole: bool, sep_line: re.Match[str] | None = None, name: str = ""
) -> Dialect:
    """Return the dialect of a table that begins with ``sample``.

    Args:
        sample: the header and as many lines as are looked at.
        whole: whether the table ends with the sample.
        sep_line: names the separator, as Excel writes it.
        name: of the file; ``.tsv`` means tabs where nothing else tells.
    """
    separators = sep_line[1] if sep_line else SEPARATORS
    if name.lower().endswith(".tsv"):
        separators = "\t" + separators.replace("\t", "")
    lines = re.findall(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+\Z", sample)
    if not whole and len(lines) > 1:
        del lines[-1]
    dialects = [
        Dialect(separator, *quotes)
        for quotes, separator in product(_quotes(sample), separators)
        if quotes[0] or separator == "\t"
    ]
    return max(dialects, key=partial(_score, lines))  # the first of the best


def _quotes(sample: str) -> Iterator[tuple[str | None, str | None]]:
    """Yield the quotes and escapes of which a sample shows a sign, the usual ones first."""
    escapes = '\\"' in sample
    doubles = not escapes or '""' in sample
    if doubles:
        yield '"', None
    if escapes:
        yield '"', "\\"
    if re.search(r"(?m)(^|[,;|\t])\s?'", sample):
        yield "'", None
    yield None, None  # tabs often separate texts with quotes that mean nothing


def _score(lines: list[str], dialect: Dialect) -> tuple[bool, int, int]:
    """Return how well a dialect fits: several columns, lines that fit, fields."""
    reader = dialect.reader(iter(lines))
    header: list[str] = []
    fitting = start = 0
    while True:
        try:
            fields = next(reader, None)
        except csv.Error:
            fields = []
        if fields is None:
            break
        header = header or fields
        if fields and len(_trimmed(fields, len(header))) == len(header):
            fitting += reader.line_num - start
        start = reader.line_num
    for quote in "\"'":  # quotes around whole names are no part of the names
        if header and all(len(f) > 1 and f[0] == f[-1] == quote for f in header):
            return False, 0, 0
    return len(header) > 1, fitting, len(header)


def _header(text: Text, dialect: Dialect, sep_line: bool) -> tuple[list[str], int]:
    """Return the names of the columns and the number of the last line of the header."""
    name = text.stored.name
    with text.open() as file:
        lines = lines_of(file)
        if sep_line:
            next(lines)
        reader = dialect.reader(lines)
        try:
            header: list[str] = next((fields for fields in reader if any(fields)), [])
        except csv.Error as error:
            line = reader.line_num + sep_line
            raise UserError(f"{name}, line {line}: not valid CSV: {error}") from error
        except STOPS as error:
            raise UserError(f"{name}: {end_of_reading(error)}") from error
        line = reader.line_num + sep_line
    header = [column.strip() for column in header]
    if complaint := text.complaint("".join(header)):
        raise UserError(f"{name}, line {line}: {complaint}")
    if twice := [column for column, count in Counter(header).items() if column and count > 1]:
        raise UserError(
            f'{name}, line {line}: the header names "{twice[0]}" twice: rename or remove one of '
            f"the columns"
        )
    while header and not header[-1]:
        header.pop()
    return [column or f"column {n} (no name)" for n, column in enumerate(header, start=1)], line


def _trimmed(fields: list[str], width: int) -> list[str]:
    """Return ``fields`` without empty ones beyond ``width``, which spreadsheets write."""
    return fields if any(fields[width:]) else fields[:width]


def _records(text: Text, dialect: Dialect, header: list[str], header_line: int) -> Iterator[Record]:
    width = len(header)
    first = header_line + 1
    with text.open() as file:
        try:
            lines = lines_of(file)
            for _ in range(header_line):
                next(lines)
            reader = dialect.reader(lines)
            while True:
                first = reader.line_num + header_line + 1
                try:
                    fields = next(reader, None)
                except csv.Error as error:
                    yield first, Broken(f"not valid CSV: {error}")
                    continue
                if fields is None:
                    return
                if len(fields) != width:
                    if not any(fields):
                        continue
                    fields = _trimmed(fields, width)
                if not all(map(str.isascii, fields)) and (
                    complaint := text.complaint(" ".join(fields))
                ):
                    yield first, Broken(complaint)
                elif len(fields) != width:
                    yield first, Broken(_ragged(len(fields), width, dialect))
                else:
                    yield first, dict(zip(header, fields, strict=True))
        except STOPS as error:
            yield first, broken_end(error)


def _ragged(count: int, width: int, dialect: Dialect) -> str:
    separators = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
    return (
        f"{count} fields, but the header has {width}; quote fields that hold "
        f"{separators.get(dialect.delimiter, repr(dialect.delimiter))} or line breaks"
    )
