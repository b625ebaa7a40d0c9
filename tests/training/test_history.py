"""``history.csv``: every figure of a run, valid CSV at all times, the same after a kill."""

import csv
import io
import multiprocessing
import signal
import time
from pathlib import Path

import pytest

from src.files import disk
from src.training.curves import read_history
from src.training.history import History
from tests.training.conftest import curves, metrics


def history(path: Path, step: int | None = None) -> History:
    return History(path, lambda: (70, 1.5), step)


def rows(path: Path) -> list[list[str]]:
    return list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline="")))


def test_a_run_writes_every_figure_it_logs(small_run):
    run = small_run("trainer.log_every_n_steps=4")
    found = read_history(run / "history.csv")
    assert [int(row["step"]) for row in found] == [0, 4, 5, 8, 10, 12]
    assert list(found[0])[:3] == ["step", "tokens", "seconds"]
    for tag, points in curves(run).items():
        if tag == "tokens":  # a column of its own, at every step
            continue
        logged = {int(row["step"]): float(row[tag]) for row in found if row[tag]}
        assert logged == pytest.approx(points), tag
    tokens, seconds = ([float(row[name]) for row in found] for name in ("tokens", "seconds"))
    assert tokens[0] == seconds[0] == 0
    assert tokens == sorted(set(tokens))
    assert tokens[-1] == metrics(run)["num_tokens"]
    assert seconds == sorted(seconds)
    assert seconds[-1] <= metrics(run)["train_seconds"] + 0.001
    assert found[-1]["test/loss"]
    assert not found[-2]["test/loss"]


def test_the_file_is_whole_after_each_log(tmp_path):
    path = tmp_path / "history.csv"
    log = history(path)
    name = 'val/loss/my "rows", 2'
    for step, figures in enumerate(
        [{"val/loss": 5.0}, {"lr": 0.1}, {name: float("nan")}, {"lr": 1e-7, "val/loss": 2.25}]
    ):
        log.log_metrics(figures, step)
        log.log_metrics({"lr": 0.5}, step)
        log.log_metrics({"lr": 1 / 3}, step)  # a longer row
        log.log_metrics({"lr": 0.25}, step)  # a shorter one
        header, *values = rows(path)
        assert len(values) == step + 1
        assert {len(row) for row in values} == {len(header)}
        assert path.read_bytes().endswith(b"\n")
    log.close()
    assert header == ["step", "tokens", "seconds", "val/loss", "lr", name]
    assert values[2] == ["2", "70", "1.500", "", "0.25", "nan"]


def test_a_run_that_goes_on_cuts_what_will_be_logged_again(tmp_path):
    path = tmp_path / "history.csv"
    log = history(path)
    for step in range(4):
        log.log_metrics({"lr": float(step)}, step)
    before = path.read_bytes()
    log.log_metrics({"late": 1.0}, 4)
    log.close()
    with path.open("ab") as file:  # a loss of power
        file.write(b"5,1\x00\x00")
    log = history(path, 3)
    assert path.read_bytes() == before
    log.log_metrics({"val/loss": 1.0}, 3)  # the last row, too, goes on
    log.close()
    assert rows(path)[-1] == ["3", "70", "1.500", "3.0", "1.0"]
    history(path, 2).close()
    assert [row["step"] for row in read_history(path)] == ["0", "1", "2"]
    history(path).close()
    assert not path.exists()


@pytest.mark.parametrize("content", [None, b"", b"a,b\n1,2\n", b"\xff\xfe\x00", b"step,tokens"])
def test_a_run_without_a_history_begins_one(tmp_path, content):
    path = tmp_path / "history.csv"
    if content is not None:
        path.write_bytes(content)
    log = history(path, 3)
    log.log_metrics({"lr": 0.5}, 4)
    log.close()
    assert rows(path) == [["step", "tokens", "seconds", "lr"], ["4", "70", "1.500", "0.5"]]


def log_without_end(path: Path) -> None:
    log = history(path)
    for step in range(10**9):
        log.log_metrics({"lr": 1 / (step + 1), f"figure_{step // 500 % 40}": 1.0}, step)
        log.log_metrics({"val/loss": 1 / (step + 3)}, step)


@pytest.mark.parametrize("milliseconds", [3, 40, 110])
def test_a_kill_tears_no_row(tmp_path, milliseconds):
    process = multiprocessing.get_context("fork").Process(
        target=log_without_end, args=[tmp_path / "history.csv"], daemon=True
    )
    process.start()
    time.sleep(milliseconds / 1000)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    if (tmp_path / "history.csv").exists():
        header, *values = rows(tmp_path / "history.csv")
        assert {len(row) for row in values} <= {len(header)}
        assert [int(row[0]) for row in values] == list(range(len(values)))


def test_a_row_that_a_full_disk_refuses_leaves_those_before_it(tmp_path, monkeypatch):
    path = tmp_path / "history.csv"
    log = history(path)
    log.log_metrics({"lr": 0.5}, 0)
    before = path.read_bytes()
    full = Full(log.file)
    monkeypatch.setattr(log, "file", full)
    with pytest.raises(disk.Unwritten) as error:
        log.log_metrics({"lr": 0.25}, 1)
    full.file.close()
    assert error.value.filename == str(path)
    assert path.read_bytes() == before


class Full:
    """A file that takes four more bytes."""

    def __init__(self, file: io.FileIO):
        self.file = file
        self.room = 4

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, data: bytes) -> int:
        if not self.room:
            raise OSError(28, "No space left on device")
        part, self.room = data[: self.room], 0
        return self.file.write(part)
