import csv
import gzip
import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from src.data.files import read_rows
from src.errors import UserError

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


def complaint(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        list(read_rows(path))
    message = str(caught.value)
    assert message.startswith(str(path))
    return message.removeprefix(str(path))


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
    assert list(read_rows(path.rename(tmp_path / name))) == ROWS


def test_parquet_gives_lists_of_messages_as_lists(tmp_path):
    row = {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]}
    assert list(read_rows(write(tmp_path / "rows.parquet", [row, row]))) == [row, row]


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
    assert list(read_rows(path)) == [{"prompt": "Q", "response": "A"}]


def test_blank_lines_are_passed_over(tmp_path):
    path = raw(tmp_path / "rows.jsonl", '\n{"a": 1}\n \n\n{"a": 2}')
    assert list(read_rows(path)) == [{"a": 1}, {"a": 2}]
    assert list(read_rows(raw(tmp_path / "rows.csv", "a\n\n1\n\n"))) == [{"a": "1"}]


def test_an_unusual_line_separator_does_not_end_a_json_line(tmp_path):
    row = {"prompt": "a\u2028b\x85c", "response": "A"}
    path = raw(tmp_path / "rows.jsonl", json.dumps(row, ensure_ascii=False) + "\n")
    assert list(read_rows(path)) == [row]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", '{"a": 1}\n\n{"a": \n{"a": 3}\n', r", line 3: not valid JSON"),
        ("a.jsonl", '{"a": 1} {"a": 2}\n', r", line 1: not valid JSON: Extra data"),
        ("a.jsonl", '{"a": 1}\n{"a": ' + "1" * 5000 + "}\n", r", line 2: .*5000 digits"),
        ("a.jsonl", '{"a": 1}\n' + "[" * 200_000 + "\n", r", line 2: not valid JSON: .*recursion"),
        ("a.jsonl", '{"a": 1}\n"text"\n', r", line 2: expected an object .* found str"),
        ("a.jsonl", "[1, 2]\n", r", line 1: expected an object .* found list"),
        ("a.json", '[\n{"a": 1},\n{"a" 2}\n]', r", line 3: not valid JSON"),
        ("a.json", '{"a": 1}\n{"a": 2}\n', r", line 2: not valid JSON.*name the file \.jsonl"),
        ("a.json", "[" + "1" * 5000 + "]", r": not usable JSON: .*5000 digits"),
        ("a.json", "[" * 200_000, r": not usable JSON: .*recursion"),
        ("a.json", "7", r": expected a list of rows, found int"),
        ("a.json", '{"a": 1}', r": expected a list of rows, found dict"),
        ("a.json", '[{"a": 1}, "text"]', r", row 2: expected an object .* found str"),
        ("a.csv", 'a,b\n1,2\n"x\ny",3\n4\n', r", line 5: 1 fields, but the header has 2"),
        ("a.csv", "a,b\n1,2\n3,4,5\n", r", line 3: 3 fields, but the header has 2"),
        ("a.csv", 'a,b\n1,"2" x\n', r", line 2: not valid CSV"),
        ("a.csv", 'a,b\n1,2\n3,"4\n5,6\n', r", line 3: not valid CSV"),
        ("a.parquet", "not parquet", r": not a readable Parquet file"),
        ("a.jsonl.gz", '{"a": 1}\n', r": the gzip file is broken"),
    ],
)
def test_what_is_broken_is_named_by_file_and_line(tmp_path, name, content, says):
    assert re.match(says, complaint(raw(tmp_path / name, content)))


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.csv"])
def test_text_that_is_not_utf_8_is_refused(tmp_path, name):
    content = '[{"a": "Zürich"}]' if name == "rows.json" else '{"a": "Zürich"}\n'
    says = complaint(raw(tmp_path / name, content.encode("latin-1")))
    assert says.startswith(": not UTF-8 text")


def test_a_truncated_gzip_file_is_refused(tmp_path):
    whole = gzip.compress(b'{"prompt": "Q", "response": "A"}\n' * 1000)
    says = complaint(raw(tmp_path / "rows.jsonl.gz", whole[:-20]))
    assert says.startswith(": the gzip file is broken")


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
            list(read_rows(path))
        except UserError:
            refused += 1
    assert refused > 0.9 * len(whole)  # the header's time stamp is nobody's concern


def test_a_missing_file_and_another_kind_of_file_are_refused(tmp_path):
    assert "no such file" in complaint(tmp_path / "absent.jsonl")
    assert "no such file" in complaint(tmp_path)
    for name in ("rows.xlsx", "rows", "rows.gz", "rows.parquet.gz"):
        assert "cannot read this kind of file" in complaint(raw(tmp_path / name, "x"))
