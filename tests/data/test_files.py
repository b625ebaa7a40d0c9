import csv
import gzip
import json
import random
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from src.errors import UserError
from tests.data.conftest import read_file

ROWS = [
    {"prompt": "Where is Zürich?", "response": "In Switzerland."},
    {"prompt": "Two\nlines, one comma", "response": 'She said "yes".\r\nThen left.'},
    {"prompt": "NA", "response": ""},
    {"prompt": "2024-01-01", "response": "007"},
]


def write(path: Path, rows: list[dict]) -> Path:
    """Write ``rows`` in the format that the name of ``path`` asks for."""
    kind = Path(path.name.removesuffix(".gz")).suffix
    if kind == ".parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
        return path
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8", newline="") as file:
        if kind == ".jsonl":
            file.writelines(json.dumps(row) + "\n" for row in rows)
        elif kind == ".json":
            json.dump(rows, file, ensure_ascii=False, indent=1)
        else:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return path


def raw(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read_rows(path: Path) -> list[dict]:
    rows, broken = read_file(path)
    assert broken == []
    return rows


def complaint(path: Path) -> str:
    """What is said of a file: its first broken record, or why it is refused."""
    try:
        _, broken = read_file(path)
    except UserError as error:
        return str(error).removeprefix(str(path))
    return ", " + broken[0]


@pytest.mark.parametrize(
    "name",
    [
        *("rows.json", "rows.jsonl", "rows.csv", "rows.parquet"),
        *("rows.json.gz", "rows.jsonl.gz", "rows.csv.gz", "a.b.jsonl", "ROWS.JSONL"),
    ],
)
def test_every_format_gives_the_same_rows(tmp_path, name):
    """Line breaks, commas and quotes inside fields, NA, dates and empty fields included."""
    path = write(tmp_path / name.lower(), ROWS)
    assert (read_rows(path.rename(tmp_path / name))) == ROWS


def test_parquet_gives_lists_of_messages_as_lists(tmp_path):
    row = {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]}
    assert (read_rows(write(tmp_path / "rows.parquet", [row, row]))) == [row, row]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.jsonl", '{"prompt": "Q", "response": "A"}\n'),
        ("rows.json", '[{"prompt": "Q", "response": "A"}]'),
        ("rows.csv", "prompt,response\r\nQ,A\r\n"),
    ],
)
def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path, name, content):
    path = raw(tmp_path / name, b"\xef\xbb\xbf" + content.encode())
    assert (read_rows(path)) == [{"prompt": "Q", "response": "A"}]


def test_blank_lines_are_passed_over(tmp_path):
    path = raw(tmp_path / "rows.jsonl", '\n{"a": 1}\n \n\n{"a": 2}')
    assert (read_rows(path)) == [{"a": 1}, {"a": 2}]
    assert (read_rows(raw(tmp_path / "rows.csv", "a\n\n1\n\n"))) == [{"a": "1"}]


def test_an_unusual_line_separator_does_not_end_a_json_line(tmp_path):
    row = {"prompt": "a\u2028b\x85c", "response": "A"}
    path = raw(tmp_path / "rows.jsonl", json.dumps(row, ensure_ascii=False) + "\n")
    assert (read_rows(path)) == [row]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", '{"a": 1}\n\n{"a": \n{"a": 3}\n', r", line 3: not valid JSON"),
        ("a.jsonl", '{"a": 1}\n{"a": ' + "1" * 5000 + "}\n", r", line 2: .*5000 digits"),
        ("a.jsonl", '{"a": 1}\n' + "[" * 200_000 + "\n", r", line 2: not valid JSON: nested too"),
        ("a.jsonl", '{"a": 1}\n"text"\n', r", line 2: expected an object .* found str"),
        ("a.jsonl", "[1, 2]\n", r", line 1: expected an object .* found int"),
        ("a.json", '[\n{"a": 1},\n{"a" 2}\n]', r", line 3: not valid JSON"),
        ("a.json", "[" + "1" * 5000 + "]", r", line 1: .*5000 digits"),
        ("a.json", "[" * 200_000, r", line 1: not valid JSON: nested too deeply"),
        ("a.json", "7", r": expected rows, found one int"),
        ("a.json", '[{"a": 1},\n"text"]', r", line 2: expected an object .* found str"),
        ("a.csv", 'a,b\n1,2\n"x\ny",3\n4\n', r", line 5: 1 fields, but the header has 2"),
        ("a.csv", "a,b\n1,2\n3,4,5\n", r", line 3: 3 fields, but the header has 2"),
        ("a.csv", 'a,b\n1,"2" x\n', r", line 2: not valid CSV"),
        ("a.csv", 'a,b\n1,2\n3,"4\n5,6\n', r", line 3: not valid CSV"),
        ("a.parquet", "PAR1 cut", r": not a readable Parquet file"),
        ("a.arrow", "ARROW1 cut", r": not a readable Arrow file"),
    ],
)
def test_what_is_broken_is_named_by_file_and_line(tmp_path, name, content, says):
    assert re.match(says, complaint(raw(tmp_path / name, content)))


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.csv"])
def test_text_that_is_not_utf_8_is_refused(tmp_path, name):
    content = "a,b\n1,Zürich\n" if name == "rows.csv" else '[\n{"a": "Zürich"}]'
    says = complaint(raw(tmp_path / name, content.encode("latin-1")))
    assert says.startswith(", line 2: not UTF-8 text (byte 0xfc)")
    assert "Zürich" in says
    assert "data.encoding=cp1252" in says


def test_what_can_be_read_of_a_cut_file_is_read_and_the_cut_is_named(tmp_path):
    draw = random.Random(0)  # which bytes end the half decides what of a line is left
    lines = [f'{{"prompt": "{draw.random()}", "response": "A"}}\n' for _ in range(1000)]
    whole = gzip.compress("".join(lines).encode())
    rows, broken = read_file(raw(tmp_path / "rows.jsonl.gz", whole[: len(whole) // 2]))
    assert 300 < len(rows) < 700
    assert len(broken) == 1
    assert broken[0].startswith(f"line {len(rows) + 1}: the file is cut here")


def test_a_gzip_file_damaged_anywhere_is_never_our_error(tmp_path):
    rows = b"".join(b'{"prompt": "%d", "response": "A"}\n' % i for i in range(50))
    whole = gzip.compress(rows, mtime=0)
    path = tmp_path / "rows.jsonl.gz"
    refused = 0
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        raw(path, damaged)
        try:
            refused += bool(read_file(path)[1])
        except UserError:
            refused += 1
    assert refused > 0.9 * len(whole)  # the header's time stamp is nobody's concern


def test_a_missing_file_is_named_with_one_of_a_similar_name(tmp_path):
    raw(tmp_path / "rows.jsonl", "")
    with pytest.raises(UserError, match=r"there is no such file or folder; did you mean .*rows\."):
        read_file(tmp_path / "row.jsonl")
