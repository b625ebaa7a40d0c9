"""What is no file, has no end, or changes while it is read: one line, and bounded memory."""

import errno
import io
import os
import re
import socket
import tracemalloc
from pathlib import Path

import pytest

from src.data.report import RowReport
from src.data.sources import open_source
from src.errors import UserError
from tests.data.conftest import read_file


@pytest.mark.parametrize("name", ["pipe", "socket", "/dev/zero", "/dev/null", "/dev/tty"])
def test_what_is_no_file_is_refused_at_once(data_config, tmp_path, monkeypatch, name):
    path = tmp_path / name
    if name == "pipe":
        os.mkfifo(path)
    elif name == "socket":
        monkeypatch.chdir(tmp_path)  # a socket's path is short
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(name)
    if not path.exists():
        pytest.skip(f"there is no {name} here")
    for values in ({"path": str(path)}, {"path": str(write(tmp_path)), "test_split": str(path)}):
        with pytest.raises(UserError, match="neither a file nor a folder"):
            open_source(data_config(source="file", **values))


def write(folder: Path, text: str = '{"prompt": "Q", "response": "A"}\n') -> Path:
    path = folder / "rows.jsonl"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_pipe_in_a_folder_is_no_file_of_rows(data_config, tmp_path):
    write(tmp_path)
    os.mkfifo(tmp_path / "more.jsonl")
    source = open_source(data_config(source="file", path=str(tmp_path)))
    assert len(list(source.conversations(RowReport()))) == 1


def test_a_terabyte_of_nothing_is_refused_at_once(data_config, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.touch()
    try:
        os.truncate(path, 1 << 40)
    except OSError:
        pytest.skip("this file system holds no such file")
    with pytest.raises(UserError, match="binary data of an unknown kind"):
        open_source(data_config(source="file", path=str(path)))


@pytest.fixture
def short(monkeypatch):
    """Lines of more than 10,000 characters, and values of more than 50,000, are too long."""
    monkeypatch.setattr("src.data.files.text.LONGEST_LINE", 10_000)
    monkeypatch.setattr("src.data.files.tables.LONGEST_LINE", 10_000)
    monkeypatch.setattr("src.data.files.json_rows.LONGEST_LINE", 10_000)
    monkeypatch.setattr("src.data.files.json_text.LARGEST_VALUE", 50_000)
    monkeypatch.setattr("src.data.files.json_text.CHUNK", 5_000)


ROW = '{"prompt": "Q", "response": "A"}\n'
LONG = '{"prompt": "Q", "response": "' + "A" * 200_000 + '"}\n'


def test_a_line_without_an_end_is_named_and_the_next_ones_are_read(short, tmp_path):
    rows, broken = read_file(write(tmp_path, ROW * 3 + LONG + ROW * 2))
    assert len(rows) == 5
    assert broken == ["line 4: a line of more than 67,108,864 characters: this is no row"]


@pytest.mark.parametrize(
    "text",
    [
        '{"prompt": "Q", "response": "' + "A" * 200_000,
        "[" + ROW + "," + LONG + "]",
        '{\n"data": [' + (ROW + ",") * 9_000 + ROW + "]}",
        "prompt,response\nQ,A\nQ," + "A" * 200_000,
        'prompt,response\nQ,A\nQ,"' + "\n" * 200_000,
        "prompt,response," + "A" * 200_000,
    ],
)
def test_a_value_without_an_end_is_never_in_memory_whole(short, tmp_path, text):
    path = tmp_path / ("rows.csv" if text.startswith("prompt") else "rows.json")
    path.write_text(text, encoding="utf-8")
    tracemalloc.start()
    try:
        _, broken = read_file(path)
    except UserError as error:
        broken = [str(error)]
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(broken) >= 1
    assert re.search("of more than|larger than field limit", broken[0])
    assert most < 2_000_000


@pytest.mark.parametrize("on_bad_row", ["stop", "skip"])
def test_a_disk_that_fails_while_it_is_read_is_one_line(
    data_config, tmp_path, monkeypatch, on_bad_row
):
    """Rows that could not be read are never passed over as broken ones are."""
    path = write(tmp_path, ROW * 10_000)
    source = open_source(data_config(source="file", path=str(path), on_bad_row=on_bad_row))

    class Failing(io.FileIO):
        def readinto(self, buffer):
            if self.tell() > 100_000:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().readinto(buffer)

    monkeypatch.setattr(Path, "open", lambda path, mode: io.BufferedReader(Failing(path)))
    with pytest.raises(UserError) as caught:
        list(source.conversations(RowReport()))
    assert re.fullmatch(
        rf"{path}, line \d+: it cannot be read here \(Input/output error\)", str(caught.value)
    )


def test_a_folder_that_may_not_be_read_is_not_passed_over(data_config, tmp_path, monkeypatch):
    write(tmp_path)
    (tmp_path / "more").mkdir()
    scandir = os.scandir

    def refusing(path):
        if str(path).endswith("more"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(UserError, match=r"more: cannot be read: Permission denied"):
        open_source(data_config(source="file", path=str(tmp_path)))


def test_a_file_that_grows_while_it_is_read_has_an_end(data_config, tmp_path):
    """Its hash is that of what was there; and then it has changed."""
    path = write(tmp_path, ROW * 10)
    source = open_source(data_config(source="file", path=str(path)))
    source.check_unchanged()
    with path.open("a") as file:
        file.write(ROW)
    with pytest.raises(UserError, match="it changed while it was read"):
        source.check_unchanged()
