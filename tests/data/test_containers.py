"""Whatever holds the rows: a file is what is in it, not what it is called."""

import bz2
import csv
import gzip
import io
import json
import lzma
import pickle
import sqlite3
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from src.data.files.part import Broken
from src.data.files.places import find_places, split_of_name
from src.data.files.reader import open_parts
from src.errors import UserError
from tests.data.conftest import read_file

ROWS = [
    {"prompt": "One, two; three\tfour?", "response": "A1"},
    {"prompt": "Wie heißt das?", "response": 'She said "x", then left.'},
    {"prompt": "Two lines", "response": "A\n3"},
]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
MESSAGES = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
TABLE = pa.Table.from_pylist(ROWS)


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refused(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_file(path)
    return str(caught.value)


def zipped(files: dict[str, bytes | str]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return content.getvalue()


def packed(codec: str, content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, codec) as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


def arrow(writer, table=TABLE) -> bytes:
    content = io.BytesIO()
    with writer(content, table.schema) as out:
        out.write_table(table)
    return content.getvalue()


def parquet(table=TABLE) -> bytes:
    content = io.BytesIO()
    pyarrow.parquet.write_table(table, content)
    return content.getvalue()


def table(**dialect) -> str:
    content = io.StringIO()
    writer = csv.DictWriter(content, list(ROWS[0]), **dialect)
    writer.writeheader()
    writer.writerows(ROWS)
    return content.getvalue()


JSON = {
    "lines": LINES,
    "lines with a mark": "\ufeff" + LINES,
    "blank lines": "\n\n" + LINES.replace("\n", "\n \n"),
    "Windows": LINES.replace("\n", "\r\n"),
    "no last line break": LINES.rstrip(),
    "a list": json.dumps(ROWS),
    "a pretty list": json.dumps(ROWS, indent=2),
    "a list, a row a line": "[\n" + ",\n".join(json.dumps(row) for row in ROWS) + "\n]",
    "pretty objects": "\n".join(json.dumps(row, indent=4) for row in ROWS),
    "objects end to end": "".join(json.dumps(row) for row in ROWS),
    "pretty objects end to end": "".join(json.dumps(row, indent=1) for row in ROWS),
    **{key: json.dumps({"v": 1, key: ROWS}) for key in ("data", "rows", "train", "examples", "my")},
    "a pretty object": json.dumps({"meta": {"by": "me"}, "instances": ROWS}, indent=1),
    "splits": json.dumps({"train": ROWS[:1], "dev": ROWS[1:2], "test": ROWS[2:]}),
    "splits inside": json.dumps({"data": {"train": ROWS[:2], "eval": ROWS[2:]}}),
    "numbered": json.dumps(dict(enumerate(ROWS))),
}
TABLES = {
    **{f"separated by {s!r}": table(delimiter=s) for s in ",;\t|"},
    "single quotes": table(quotechar="'"),
    "all in single quotes": table(quotechar="'", quoting=csv.QUOTE_ALL),
    "backslashes": table(doublequote=False, escapechar="\\"),
    "a sep line": "sep=;\r\n" + table(delimiter=";"),
    "a mark and a sep line": "\ufeffsep=|\n" + table(delimiter="|"),
    "empty columns": table().replace("\r\n", ",,\r\n") + ",,,\r\n",
}
COLUMNAR = {
    "Parquet": parquet(),
    "an Arrow file": arrow(pa.ipc.new_file),
    "an Arrow stream": arrow(pa.ipc.new_stream),
}
PACKED = {
    "gzip": gzip.compress,
    "gzip of two members": lambda b: gzip.compress(b[:70]) + gzip.compress(b[70:]),
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zstd": lambda b: packed("zstd", b),
    "zstd of two frames": lambda b: packed("zstd", b[:70]) + packed("zstd", b[70:]),
    "lz4": lambda b: packed("lz4", b),
    "zip": lambda b: zipped({"rows": b}),
    "gzip in gzip": lambda b: gzip.compress(gzip.compress(b)),
}


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "rows.gz", "rows"])
@pytest.mark.parametrize("kind", [*JSON, *TABLES, *COLUMNAR])
def test_a_file_is_what_is_in_it_whatever_it_is_called(tmp_path, kind, name):
    content = (JSON | TABLES | COLUMNAR)[kind]
    assert read_file(write(tmp_path / name, content)) == (ROWS, [])


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv.gz", "rows.bin"])
@pytest.mark.parametrize("packing", PACKED)
@pytest.mark.parametrize("kind", ["lines", "separated by ','", "Parquet", "an Arrow stream"])
def test_a_packed_file_is_unpacked_whatever_it_is_called(tmp_path, kind, packing, name):
    content = (JSON | TABLES | COLUMNAR)[kind]
    content = content.encode() if isinstance(content, str) else content
    assert read_file(write(tmp_path / name, PACKED[packing](content))) == (ROWS, [])


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("kind", ["lines", "a pretty list", "a sep line", "separated by '\\t'"])
def test_text_with_a_mark_says_its_encoding_itself(tmp_path, kind, encoding):
    text = (JSON | TABLES)[kind]
    mark = b"" if encoding in ("utf-16", "utf-32") else b"\xfe\xff"
    path = write(tmp_path / "rows.txt", mark + text.encode(encoding))
    assert read_file(path) == (ROWS, [])
    assert read_file(path, "cp1252") == (ROWS, [])  # the mark counts more


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1252", "Un café? Très bien."),
        ("cp1251", "Привет, как дела сегодня?"),
        ("shift_jis", "こんにちは、元気ですか"),
        ("gb18030", "你好，世界。今天天气怎么样？"),
        ("cp1250", "Příliš žluťoučký kůň"),
    ],
)
def test_other_text_is_read_as_a_person_says_and_else_refused_with_a_guess(
    tmp_path, encoding, text
):
    rows = [{"prompt": "plain", "response": "A"}, {"prompt": text, "response": text}]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path = write(tmp_path / "rows.jsonl", lines.encode(encoding))
    assert read_file(path, encoding) == (rows, [])
    found, (broken,) = read_file(path)
    assert found == rows[:1]
    assert broken.startswith("line 2: not UTF-8 text (byte 0x")
    assert f"set data.encoding={encoding}" in broken
    assert text[:6] in broken


def test_wide_text_without_a_mark_is_refused_by_name(tmp_path):
    path = write(tmp_path / "rows.jsonl", LINES.encode("utf-16-le"))
    assert "set data.encoding=utf-16-le" in refused(path)
    assert read_file(path, "utf-16-le") == (ROWS, [])


@pytest.mark.parametrize(
    ("content", "conversations"),
    [
        (json.dumps(MESSAGES), 1),
        (json.dumps(MESSAGES, indent=1), 1),
        (json.dumps(MESSAGES) + "\n", 1),
        ((json.dumps(MESSAGES) + "\n") * 3, 3),
        (json.dumps([MESSAGES, MESSAGES]), 2),
        (json.dumps({"messages": MESSAGES}), 1),
        (json.dumps({"conversations": [MESSAGES, MESSAGES]}), 2),
        (json.dumps({"dialogs": [{"messages": MESSAGES}] * 2}), 2),
    ],
)
def test_a_bare_list_of_messages_is_a_row(tmp_path, content, conversations):
    rows, broken = read_file(write(tmp_path / "rows.json", content))
    assert (rows, broken) == ([{"messages": MESSAGES}] * conversations, [])


def test_a_list_of_texts_a_line_is_a_row(tmp_path):
    path = write(tmp_path / "rows.jsonl", '["Q", "A"]\n["Q", "A"]\n')
    assert read_file(path) == ([{"messages": ["Q", "A"]}] * 2, [])
    assert "one list of texts" in refused(write(tmp_path / "texts.json", '["a", "b", "c"]'))


def test_a_table_of_one_column_has_no_separator(tmp_path):
    content = 'text\n"one, two"\nthree; four\n'
    rows = [{"text": "one, two"}, {"text": "three; four"}]
    assert read_file(write(tmp_path / "rows.csv", content)) == (rows, [])


def test_quotes_in_the_midst_of_a_tab_separated_text_are_text(tmp_path):
    content = 'prompt\tresponse\n"Hi" he said\t"a\nb"c\td\n'
    rows = [{"prompt": '"Hi" he said', "response": '"a'}, {"prompt": 'b"c', "response": "d"}]
    assert read_file(write(tmp_path / "rows.tsv", content)) == (rows, [])


def database() -> bytes:
    with sqlite3.connect(":memory:") as connection:
        connection.execute("create table rows (a)")
        return connection.serialize()


@pytest.mark.parametrize(
    ("content", "what", "way"),
    [
        (zipped({"xl/workbook.xml": "<a/>"}), "an Excel workbook", "CSV"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "an old Excel", "CSV"),
        (zipped({"word/document.xml": ""}), "a Word document", "JSON lines"),
        (pickle.dumps(ROWS), "a Python pickle", "JSON lines"),
        (pickle.dumps(ROWS, 0), "a Python pickle", "JSON lines"),
        (database(), "an SQLite database", "CSV"),
        (b"%PDF-1.7\n\x00\x01", "a PDF", "JSON lines"),
        ("\n <!DOCTYPE html><html><body>Log in", "an HTML page", "logged in"),
        ('<?xml version="1.0"?><rows/>', "XML", "JSON lines"),
        ("# A title\n\nand, some, text\n", "a Markdown text", "JSON lines"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:ab\n", "a git-lfs", "lfs pull"),
        ("Once, upon a time\nthere was a fox, a hare, a bear.\nIt ate.\n", "a plain text", "JSON"),
        (json.dumps({"cells": [{"a": 1}], "nbformat": 4}), "a Jupyter notebook", "JSON lines"),
        ('{"prompt": {"0": "a", "1": "b"}, "response": {"0": "c"}}', "pandas", "orient"),
        ('{"columns": ["a"], "index": [0], "data": [["x"]]}', "pandas", "orient"),
        ('{"prompt": ["a", "b"], "response": ["c", "d"]}', "a columnar table", "JSON lines"),
        (bytes(range(256)), "binary data", "JSON"),
        (b"\x28\xb5\x2f\xfd nothing", "cannot be read", "damaged"),
        (zipped({}), "an empty zip", "rows"),
    ],
)
@pytest.mark.parametrize("name", ["rows.txt", "rows.bin"])
def test_what_holds_no_rows_is_refused_by_what_it_is(tmp_path, content, what, way, name):
    said = refused(write(tmp_path / name, content))
    assert said.startswith(str(tmp_path / name))
    assert what in said
    assert way in said


def test_a_login_page_that_is_called_jsonl_is_refused_by_what_it_is(tmp_path):
    assert "an HTML page" in refused(write(tmp_path / "rows.jsonl", "<html><head>Sign in"))
    assert "git-lfs" in refused(
        write(tmp_path / "rows.parquet", "version https://git-lfs.github.com/spec/v1\n")
    )


@pytest.mark.parametrize(
    ("name", "content", "places"),
    [
        ("a.jsonl", '{"a": 1, "a": 2}\n{"b": 1}\n', ["line 1"]),
        ("a.jsonl", '{"b": 1}\n{"b": {"c": 1, "d": 2, "c": 3}}\n', ["line 2"]),
        ("a.json", '[\n{"b": 1},\n{"a": 1,\n"a": 2},\n{"a": 1, "a": 3}]', ["line 3", "line 5"]),
        ("a.json", '{\n"data": [\n{"a": 1},\n{"b": {\n"a": 1, "a": 2}}]}', ["line 4"]),
        ("a.json", '{\n "a": 1, "a": 2\n}\n{\n "b": 1\n}\n', ["line 1"]),
    ],
)
def test_a_name_twice_in_an_object_is_named_by_its_line(tmp_path, name, content, places):
    _, broken = read_file(write(tmp_path / name, content))
    assert [text.split(":")[0] for text in broken] == places
    assert all("stands twice" in text for text in broken)


def test_a_name_twice_in_a_header_is_refused(tmp_path):
    said = refused(write(tmp_path / "a.csv", "sep=;\nprompt;Response;response;Response\na;b;c;d\n"))
    assert "line 2" in said
    assert '"Response" twice' in said
    schema = pa.schema([("a", pa.string()), ("a", pa.string())])
    twice = pa.table([["x"], ["y"]], schema=schema)
    assert 'two columns are called "a"' in refused(
        write(tmp_path / "a.arrow", arrow(pa.ipc.new_stream, twice))
    )


@pytest.mark.parametrize(
    ("content", "rows", "places"),
    [
        ('{"a": 1}\n{"a": \n{"a": 3}\nnonsense\n', [1, 3], ["line 2", "line 4"]),
        ('nonsense\n{"a": 1}\n{"a": 2}\n', [1, 2], ["line 1"]),
        ('{"a": \n{"a": 1}\n{"a": 2}\n', [1, 2], ["line 1"]),
        ("{'a': 1}\n{'a': 2}\n", [], ["line 1", "line 2"]),
        ('{"a": 1},\n{"a": 2},\n', [], ["line 1", "line 2"]),
        ('[\n{"a": 1},\n{"a" 2},\n{"a": 3}\n]', [1, 3], ["line 3"]),
        (
            '[\n  {\n    "a": 1\n  },\n  {\n    "a" 2\n  },\n  {\n    "a": 3\n  }\n]',
            [1, 3],
            ["line 6"],
        ),
        ('{\n "a": 1\n}\n{\n "a" 2\n}\n{\n "a": 3\n}\n', [1, 3], ["line 5"]),
        ('[{"a": 1}, {"a": 2}, {"a', [1, 2], ["line 1"]),
        ('[{"a": 1}, {"a": 2}', [1, 2], ["line 1"]),
        ('{"data": [\n{"a": 1},\n{"a"', [], ["line 3"]),
    ],
)
def test_what_is_broken_leaves_the_other_rows(tmp_path, content, rows, places):
    found, broken = read_file(write(tmp_path / "rows.json", content))
    assert [row["a"] for row in found] == rows
    assert [text.split(":")[0] for text in broken] == places


def test_a_row_larger_than_what_is_read_at_a_time_is_whole(tmp_path):
    rows = [{"a": "x" * 1_000_000, "b": i} for i in range(3)]
    for name, content in {
        "list": json.dumps(rows),
        "lines": "\n".join(map(json.dumps, rows)),
        "pretty": "\n".join(json.dumps(row, indent=1) for row in rows),
    }.items():
        assert read_file(write(tmp_path / name, content)) == (rows, [])


def test_rows_are_read_one_at_a_time(tmp_path):
    """Of the million lines only the first are read, in every layout."""
    import tracemalloc

    row = json.dumps({"prompt": "Q", "response": "x" * 1000})
    count = 20_000
    for name, content in {
        "lines.jsonl": (row + "\n") * count,
        "list.json": "[" + ",\n".join([row] * count) + "]",
        "pretty.json": (json.dumps(json.loads(row), indent=1) + "\n") * count,
        "table.csv": "prompt,response\n" + f"Q,{'x' * 1000}\n" * count,
    }.items():
        path = write(tmp_path / name, content)
        (place,) = find_places(str(path), "data.path")
        tracemalloc.start()
        (part,) = open_parts(place)
        assert sum(not isinstance(row, Broken) for _, row in part.records()) == count
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert most < 8e6, name  # of 20 MB


# Which files a person means


@pytest.mark.parametrize(
    "name",
    ["rows (1) = 数据, it's #1.jsonl", "a,b.jsonl", "[x].jsonl", "{a: b}.jsonl", "ä *.jsonl"],
)
def test_a_file_has_any_name(tmp_path, name):
    write(tmp_path / "b.jsonl", "")
    assert read_file(write(tmp_path / name, LINES)) == (ROWS, [])


def several(folder: Path) -> Path:
    for number, row in enumerate(ROWS):
        write(folder / f"part-{number}.jsonl", json.dumps(row))
    write(folder / "README.md", "# About")
    write(folder / ".hidden.jsonl", "{}")
    write(folder / "dataset_infos.json", "{}")
    return folder


def test_a_folder_a_pattern_and_a_list_are_all_their_files(tmp_path, monkeypatch):
    folder = several(tmp_path / "rows, of mine")
    names = [str(folder / f"part-{number}.jsonl") for number in range(3)]
    assert read_file(folder) == read_file(folder / "*.jsonl") == (ROWS, [])
    assert read_file(tmp_path / "**" / "*.jsonl") == (ROWS, [])
    assert [place.path for place in find_places(names, "k")] == list(map(Path, names))
    with pytest.raises(UserError, match="there is no such file"):
        find_places(",".join(names), "k")  # the folder's name has a comma
    plain = several(tmp_path / "plain")
    joined = ",".join(str(plain / f"part-{number}.jsonl") for number in range(3))
    assert len(find_places(joined, "k")) == 3
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(find_places("~/plain", "k")) == 3


def test_files_of_a_folder_go_where_their_names_say(tmp_path):
    names = {
        "train.jsonl": None,
        "data/train-00000-of-00002.parquet": "train",
        "more/rows.csv": None,
        "my_val.jsonl": "validation",
        "dev/a.jsonl": "validation",
        "test-1.jsonl.gz": "test",
        "contest.jsonl": None,
    } | {"train.jsonl": "train"}
    for name in names:
        write(tmp_path / name, LINES)
    places = find_places(str(tmp_path), "data.path")
    assert {str(p.path.relative_to(tmp_path)): p.split for p in places} == names
    assert [p.split for p in find_places(str(tmp_path / "test-1.jsonl.gz"), "data.path")] == [None]
    assert split_of_name("train/eval.jsonl") == "validation"


def test_a_folder_of_test_rows_alone_is_meant(tmp_path):
    write(tmp_path / "test.jsonl", LINES)
    assert [place.split for place in find_places(str(tmp_path), "k")] == [None]


def test_the_members_of_a_zip_file_are_like_those_of_a_folder(tmp_path):
    files = {"b/test.csv": table(), "b/train.jsonl.gz": gzip.compress(LINES.encode())}
    extra = {"__MACOSX/b/._train.jsonl": b"\x00\x01", "README.md": "# About"}
    (place,) = find_places(str(write(tmp_path / "rows.zip", zipped(files | extra))), "k")
    parts = open_parts(place)
    assert [part.split for part in parts] == ["test", "train"]
    assert [len(list(part.records())) for part in parts] == [3, 3]
    assert "password" in refused(write(tmp_path / "locked.zip", locked_zip()))


def test_members_of_a_zip_file_that_are_not_called_as_rows_stay_out(tmp_path):
    path = write(tmp_path / "rows.zip", zipped({"LICENSE": "Do as you like.", "a.jsonl": LINES}))
    assert read_file(path) == (ROWS, [])
    path = write(tmp_path / "texts.zip", zipped({"a.txt": LINES, "b.txt": LINES}))
    assert read_file(path) == (ROWS * 2, [])


@pytest.mark.parametrize(
    ("content", "beside"),
    [
        ({"train": ROWS, "extra": ROWS}, ["key extra"]),
        ({"version": 1, "data": ROWS, "empty": []}, ["key version"]),
        ({"data": {"train": ROWS, "extra": ROWS}, "by": "x"}, ["key by", "key data.extra"]),
        ({"result": {"items": ROWS}}, []),
        ({"rows": [{"row_idx": i, "row": row} for i, row in enumerate(ROWS)]}, []),
    ],
)
def test_what_lies_beside_the_rows_of_an_object_is_named(tmp_path, content, beside):
    path = write(tmp_path / "rows.json", json.dumps(content, separators=(",", ":")))
    (part,) = open_parts(*find_places(str(path), "k"))
    assert [row for _, row in part.records()] == ROWS
    assert list(part.unused) == beside


@pytest.mark.parametrize("name", ["rows", "rows.csv", "rows.zip", "rows.parquet", "rows.jsonl"])
def test_an_empty_file_holds_no_rows(tmp_path, name):
    assert read_file(write(tmp_path / name, "")) == ([], [])


def test_text_is_not_taken_for_a_binary_file_that_begins_alike(tmp_path):
    table = "ORCHID,answer\nq,a\n"
    assert read_file(write(tmp_path / "rows.csv", table)) == ([{"ORCHID": "q", "answer": "a"}], [])
    keyed = json.dumps({"abc": ROWS[0], "def": ROWS[1]})  # a brace where safetensors has one
    assert read_file(write(tmp_path / "rows.json", keyed)) == (ROWS[:2], [])


def test_lzma_of_the_old_kind_is_unpacked(tmp_path):
    content = lzma.compress(LINES.encode(), format=lzma.FORMAT_ALONE)
    assert read_file(write(tmp_path / "rows.lzma", content)) == (ROWS, [])


def locked_zip() -> bytes:
    content = bytearray(zipped({"rows.jsonl": LINES}))
    for magic, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(magic) + offset] |= 1
    return bytes(content)


def test_what_is_not_there_is_said(tmp_path):
    write(tmp_path / "notes.txt", "x")
    with pytest.raises(UserError, match=r"k=.*: no file of rows in this folder"):
        find_places(str(tmp_path), "k")
    with pytest.raises(UserError, match=r"k=.*\*\.csv: there is no such file"):
        find_places(str(tmp_path / "*.csv"), "k")


def test_what_save_to_disk_has_written_is_read_with_its_splits(tmp_path):
    import datasets

    one = datasets.Dataset.from_list(ROWS)
    one.save_to_disk(tmp_path / "one", num_shards=2)
    assert read_file(tmp_path / "one") == (ROWS, [])
    datasets.DatasetDict({"train": one, "validation": one.select([2])}).save_to_disk(
        tmp_path / "two"
    )
    parts = [
        part for place in find_places(str(tmp_path / "two"), "k") for part in open_parts(place)
    ]
    assert [(part.split, len(list(part.records()))) for part in parts] == [
        ("train", 3),
        ("validation", 1),
    ]
    (tmp_path / "one" / "data-00001-of-00002.arrow").unlink()
    assert "is missing" in refused(tmp_path / "one")


def test_a_path_that_is_no_file_says_why(tmp_path):
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "nowhere.jsonl")
    for name, why in (
        (str(tmp_path / "link.jsonl"), "a link to"),
        ("https://example.com/rows.jsonl", "download the file"),
        ("someone/rows", "add data.source=hub"),
    ):
        with pytest.raises(UserError, match=why):
            find_places(name, "data.path")


def test_a_pattern_passes_over_texts_for_readers(tmp_path):
    write(tmp_path / "README.md", "# About")
    path = write(tmp_path / "rows.jsonl", LINES)
    assert [place.path for place in find_places(f"{tmp_path}/*", "k")] == [path]


@pytest.mark.parametrize("cut", [9, 12])
def test_a_small_file_that_is_cut_gives_its_whole_lines_and_names_the_next(tmp_path, cut):
    path = write(tmp_path / "rows.jsonl.gz", gzip.compress(LINES.encode())[:-cut])
    rows, (broken,) = read_file(path)
    assert rows == ROWS[: len(rows)]
    assert len(rows) >= 2
    assert broken.startswith(f"line {len(rows) + 1}: the file is cut here")


def test_rows_that_are_lost_behind_a_broken_one_are_not_lost_silently(tmp_path):
    line = '[{"prompt": "a", "response": "b"}, {"prompt": }, {"prompt": "c", "response": "d"}]'
    rows, broken = read_file(write(tmp_path / "rows.json", line))
    assert rows == [{"prompt": "a", "response": "b"}]
    assert "nothing after this is read" in broken[0]
