"""Files that hold no rows, or rows that are not read: each is refused by what it is."""

import re
from collections.abc import Sequence
from pathlib import PurePath

from src.errors import UserError

JSON_LINES = "write its rows as JSON lines: one object a line"

# The first bytes, as a pattern -> what the file is, and what to do about it.
BINARY = [
    (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Excel or Word file", "save the sheet as CSV"),
    (rb"SQLite format 3\x00", "an SQLite database", "export its table as CSV"),
    (rb"\x80[\x02-\x05]", "a Python pickle, which can run code when it is opened", JSON_LINES),
    (rb"%PDF", "a PDF document", JSON_LINES),
    (rb"\x93NUMPY", "a numpy array", JSON_LINES),
    (rb"\x89HDF", "an HDF5 file", JSON_LINES),
    (rb"Obj\x01", "an Avro file", "write its rows as Parquet or JSON lines"),
    (rb"ORC[\x00-\x1f\x80-\xff]", "an ORC file", "write its rows as Parquet or JSON lines"),
    (rb"FEA1", "an old Feather file", "write it again as Parquet"),
    (rb"GGUF", "a model in GGUF", "name the file of the rows"),
    (rb"(?s).{4}\x00{4}\{\"", "a model in safetensors", "name the file of the rows"),
    (rb"PK\x05\x06", "an empty zip archive", "name the file of the rows"),
    (rb"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first"),
    (rb"Rar!", "a RAR archive", "unpack it first"),
    (rb"(?s).{257}ustar", "a tar archive", "unpack it and name the folder"),
    (
        rb"\x89PNG|\xff\xd8\xff|GIF8|(?s:RIFF....(?:WAVE|WEBP|AVI ))",
        "a picture or a sound",
        "name the file of the rows",
    ),
    (rb"\x7fELF|MZ\x90", "a program", "name the file of the rows"),
]
TEXT = [
    (
        r"version https://git-lfs\.github\.com/spec",
        "a git-lfs pointer, not the file itself",
        "fetch the file with: git lfs pull",
    ),
    (
        r"(?i)<!doctype html|<html|<head|<script",
        "an HTML page, perhaps the login or error page of a server",
        "download the file again, logged in, and look at it",
    ),
    (r"<\?xml|<[A-Za-z][\w:.-]*[\s>]", "XML", JSON_LINES),
]
PROSE = [
    (r"%YAML|---\s*\n", "YAML or Markdown", JSON_LINES),
    (r"#{1,6} \S|```|[*-] \S", "a Markdown text", JSON_LINES),
    (r"\(lp0|\(dp0", "a Python pickle, which can run code when it is opened", JSON_LINES),
]
SUFFIXES = {
    ".md": "a Markdown text",
    ".markdown": "a Markdown text",
    ".rst": "a text for readers",
    ".yaml": "YAML",
    ".yml": "YAML",
    ".toml": "TOML",
    ".py": "a Python program",
}
# A member's name, as a pattern -> what its zip file is.
IN_ZIP = [
    (r"xl/workbook\.(xml|bin)", "an Excel workbook", "save the sheet as CSV"),
    (r"word/document\.xml", "a Word document", JSON_LINES),
    (r"ppt/presentation\.xml", "a PowerPoint file", JSON_LINES),
    (r"content\.xml", "an OpenDocument file", "save the sheet as CSV"),
    (r"(.*/)?data\.pkl", "a PyTorch file", JSON_LINES),
    (r"[^/]+\.npy", "numpy arrays", JSON_LINES),
    (r"META-INF/", "a Java archive or an e-book", JSON_LINES),
]

What = tuple[str, str]  # what a file is, and what to do about it


def refusal(name: str, what: What) -> UserError:
    """Return the error that says what ``name`` is, and the way out."""
    return UserError(f"{name}: this is {what[0]}: {what[1]}")


def in_zip(members: Sequence[str]) -> What | None:
    """Return what a zip file with these members is, if it is no archive of data files."""
    matches = (
        (what, way) for pattern, what, way in IN_ZIP if any(re.match(pattern, m) for m in members)
    )
    return next(matches, None)


def binary(head: bytes) -> What | None:
    """Return what a file that begins with ``head`` is, if it is none of text."""
    for pattern, what, way in BINARY:
        if re.match(pattern, head):
            return what, way
    if b"\x00" in head:
        return "binary data of an unknown kind", "name a file of JSON, CSV, Parquet or Arrow"
    return None


def text(name: str, start: str) -> What | None:
    """Return what a file that begins with the text ``start`` is, if it holds no rows."""
    kind = SUFFIXES.get(PurePath(name).suffix.lower())
    by_suffix = [(r"", kind, JSON_LINES)] if kind else []
    for pattern, what, way in (*TEXT, *by_suffix, *PROSE):
        if re.match(pattern, start.lstrip()):
            return what, way
    return None
