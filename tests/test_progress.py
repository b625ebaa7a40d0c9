"""Bars and lines: nothing wider than the terminal, nothing cut."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from src.progress import Progress, bar_line, duration

FIGURES = {"loss": "2.1234", "accuracy": "45.12%", "val_loss": "2.3456", "tokens/s": "9,626"}
PARTS = [f"{label} {value}" for label, value in FIGURES.items()]


def progress(done=1234, total: int | None = 4200, title="training: step", figures=FIGURES):
    made = Progress(total, title, say=lambda line: None)
    made.add(done, figures)
    return made


@pytest.mark.parametrize("unicode", [True, False])
@pytest.mark.parametrize("width", range(1, 101))
def test_a_figure_is_whole_or_not_there(width, unicode):
    line = bar_line(progress(), width=width, seconds=754, what=" left", unicode=unicode)
    assert len(line) <= width
    if width >= 30:
        assert line.startswith("training: step 1,234/4,200")
        rest = re.sub(r"[#.█▏▎▍▌▋▊▉ ]{8,30}(?=  |$)", "", line[26:])
        for part in ("12:34 left", *PARTS):
            rest = rest.replace(f"  {part}", "")
        assert not rest.strip(" "), line


@pytest.mark.parametrize(
    ("width", "shown"), [(120, 4), (99, 3), (79, 2), (59, 1), (45, 0)], ids=str
)
def test_a_narrow_terminal_has_the_figures_that_matter_most(width, shown):
    line = bar_line(progress(), width=width, seconds=754, what=" left")
    assert [part in line for part in PARTS] == [n < shown for n in range(4)]
    assert "12:34 left" in line


def test_the_bar_is_filled_by_what_is_done():
    for done, filled in ((0, 0), (10, 5), (20, 10), (40, 20), (60, 30)):
        line = bar_line(
            progress(done, 60, "validating", {}), width=99, seconds=None, what="", unicode=False
        )
        assert line.count("#") == filled
    assert "#" not in bar_line(progress(5, None, "x", {}), width=99, seconds=1, what="")


def test_without_a_terminal_it_is_a_line_every_ten_seconds_and_a_last_one(monkeypatch):
    now, lines = [0.0], []
    monkeypatch.setattr("src.progress.time.monotonic", lambda: now[0])
    with Progress(40, "validating", "blocks", say=lines.append) as shown:
        for second in range(1, 41):
            now[0] = second
            shown.add(1)
    assert lines == [f"validating {n}/40 blocks" for n in (11, 22, 33, 40)]
    with Progress(40, "validating", "blocks", say=lines.append) as quick:
        quick.add(40)
    assert len(lines) == 4, "what is over at once says nothing"
    with Progress(12, "rows: scoring", say=lines.append, says_end=True) as asked:
        asked.add(12)
    assert lines[4:] == ["rows: scoring 12/12"]


def test_what_is_done_twice_is_counted_once():
    assert progress(50, 40).done == 40


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00"), (65, "1:05"), (3600, "1:00:00"), (360_059, "100:00:59")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


# At a real terminal. The child has the log of training and two bars, one within the other.
CHILD = """
import logging, sys, time
from src.progress import Progress
logging.getLogger("src").setLevel("INFO")
handler = logging.StreamHandler(sys.stderr)
logging.root.addHandler(handler)
figures = {"loss": "2.1234", "accuracy": "45.12%", "val_loss": "2.3456", "tokens/s": "9,626"}
with Progress(3, "training: step") as outer:
    for step in range(3):
        time.sleep(0.15)
        outer.add(1, figures)
        logging.getLogger("src.x").info("a line of the log at step %d", step)
        with Progress(5, "validating", "blocks") as inner:
            for _ in range(5):
                time.sleep(0.05)
                inner.add(1)
with Progress(4, "scoring the test split", "blocks") as test:
    test.add(4)
with Progress(10**6, "saving", "MB", delay=600) as quick:
    quick.add(10**6)
assert handler.stream is sys.stderr
"""


def screen(output: str, columns: int) -> list[str]:
    """Return the lines that a terminal shows after ``output``: what tqdm uses of its commands."""
    rows, row, column = [[]], 0, 0
    for piece in re.findall(r"\x1b\[A|\r|\n|[^\x1b\r\n]", output):
        if piece == "\x1b[A":
            row = max(row - 1, 0)
        elif piece == "\r":
            column = 0
        elif piece == "\n":
            row, column = row + 1, 0 if "\r\n" in output else column
        else:
            assert column < columns, "a line is wider than the terminal"
            while len(rows) <= row:
                rows.append([])
            line = rows[row]
            line.extend(" " * (column + 1 - len(line)))
            line[column] = piece
            column += 1
        while len(rows) <= row:
            rows.append([])
    return ["".join(line).rstrip() for line in rows]


def at_a_terminal(code: str, columns: int, *arguments: str) -> str:
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    child = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=Path(__file__).parents[1],
        stderr=terminal,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )
    os.close(terminal)
    written = b""
    while True:
        try:
            piece = os.read(controller, 4096)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        written += piece
    os.close(controller)
    assert child.wait() == 0, written.decode()
    return written.decode()


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_a_terminal_keeps_one_line_of_each_phase_and_all_of_the_log(columns):
    output = at_a_terminal(CHILD, columns)
    lines = [line for line in screen(output, min(columns, 100)) if line]
    assert re.search(r"validating [1-4]/5 blocks", output)
    assert lines[:3] == [f"a line of the log at step {n}" for n in range(3)]
    training, test = lines[3:]
    assert training.startswith("training: step 3/3")
    assert test.startswith("scoring the test split 4/4 blocks")
    assert "saving" not in output
