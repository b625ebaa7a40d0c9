"""What is printed fits a screen, and a log file has each message on one line."""

import io
import logging
import os
import shlex
import subprocess
from pathlib import Path

import pytest

from src import streams
from src.wording.command_line import relative
from src.wording.lines import fitted, wrapped

RUN = "outputs/train/2026-11-26_14-00-00_abc123_a-long-name-that-somebody-gave-it/model"
LONG = "rows       " + "word " * 40 + "end"
LINES = [
    LONG,
    "warning: " + "only so many of the training positions hold a token, and so on " * 3,
    "error: " + "word " * 30 + "x" * 120 + " word",
    f'talk to it:   python -m src.chat model_path={RUN} prompt="Who are you?" temperature=0.7',
    f"go on with: python -m src.train resume={RUN} and=more and=more and=more and=more and=more",
    "error: model_path=x is " + "not here " * 9 + f": python -m src.chat model_path={RUN} seed=3",
    "a run is in it (python -m src.train resume=x), or " + "give the new one another folder " * 4,
]


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("width", [60, 80, 100])
def test_no_line_is_longer_than_the_screen_and_no_word_is_cut(line, width):
    parts = wrapped(line, width)
    assert len(parts) > 1
    assert all(len(part) <= width or len(part.split()) <= 3 for part in parts), parts
    words = [word for part in parts for word in part.split() if word != "\\"]
    assert words == line.split()


def test_what_goes_on_stands_below_what_it_belongs_to():
    first, *others = wrapped(LONG, 60)
    assert first.startswith("rows       word")
    assert all(part.startswith(" " * 11 + "w") or part.strip() == "end" for part in others)


@pytest.mark.parametrize("line", LINES[3:6])
def test_a_command_in_several_lines_is_the_same_to_a_shell(line):
    command = line[line.index("python") :]
    parts = "\n".join(wrapped(line, 60))
    pasted = parts[parts.index("python") :]
    shown = subprocess.run(
        ["bash", "-c", f"python() {{ printf '%s\\n' \"$@\"; }}; {pasted}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.splitlines() == shlex.split(command)[1:]


def test_short_lines_and_tables_stay():
    for line in ("", "short", "greeting      90.0%   capital      80.0%   " * 4):
        assert wrapped(line, 60) == [line]


class Terminal(io.StringIO):
    def isatty(self):
        return True

    def fileno(self):
        return 1


@pytest.mark.parametrize(("columns", "longest"), [(70, 70), (200, 100), (0, 100), (30, 300)])
def test_a_terminal_is_filled_to_a_hundred_columns(columns, longest, monkeypatch):
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((columns, 24)))
    lines = fitted(f"one\n{LONG}{LONG[-8:]}", Terminal()).split("\n")
    assert lines[0] == "one"
    assert max(map(len, lines)) <= longest
    assert (len(lines) == 2) == (columns == 30)


def test_a_file_and_a_pipe_get_the_line_as_it_is(monkeypatch, capsys):
    assert fitted(LONG, io.StringIO()) == LONG
    streams.complain(LONG)
    assert capsys.readouterr().err == LONG + "\n"


def test_a_log_on_a_screen_is_wrapped(monkeypatch):
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((80, 24)))
    stream = Terminal()
    record = logging.LogRecord("src", logging.INFO, "", 0, LONG, None, None)
    streams.Screen(stream).emit(record)
    assert max(map(len, stream.getvalue().splitlines())) <= 80
    assert stream.getvalue().split() == LONG.split()


def test_a_path_is_shown_from_here_where_it_lies_below(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert relative(tmp_path / "outputs/x") == Path("outputs/x")
    assert relative("outputs/x") == Path("outputs/x")
    assert relative(tmp_path) == tmp_path
    assert relative(tmp_path.parent / "other") == tmp_path.parent / "other"
