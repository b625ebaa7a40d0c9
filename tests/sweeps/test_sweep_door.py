"""``python -m src.sweep FOLDER`` shows a sweep at any time."""

import json
import os

import pytest

from src import sweep
from src.training import lock
from tests.sweeps.conftest import LR, made_up


@pytest.fixture
def show(door):
    def run(*arguments):
        options = {"free_text": sweep.FREE_TEXT, "alone": "folder"}
        return door(sweep.sweep, "sweep", *arguments, **options)

    return run


@pytest.mark.parametrize("name", ["s", "a=b, (c) 'd'", "數"])
def test_an_old_sweep_is_shown_and_its_files_are_written_anew(name, show, tmp_path):
    folder = made_up(tmp_path / name, [{LR: 1e-3}, {LR: 2e-3}], [2.0, 1.0])
    code, out, err = show(str(folder))
    assert (code, err) == (0, "")
    assert "2 runs, 2 finished" in out
    assert "talk to the best:" in out
    assert {path.name for path in folder.iterdir() if path.is_file()} == {
        *("sweep.json", "results.csv", "sweep.png")
    }
    assert os.listdir(tmp_path) == [name]
    assert show(f"folder={folder}")[1] == out


def test_a_sweep_that_runs_is_shown_as_it_is_now(show, tmp_path):
    folder = made_up(tmp_path / "s", [{"seed": 1}, {"seed": 2}, {"seed": 3}], [2.0, None, None])
    running = folder / "seed2"
    running.mkdir()
    status = {"state": "running", "step": 5, "num_steps": 9, "val/loss": 3.0, "seconds_left": 75}
    (running / "status.json").write_text(json.dumps(status))
    assert "3 runs, 1 finished, 1 killed, 1 waiting" in show(str(folder))[1]
    assert lock.hold(running)
    out = show(str(folder))[1]
    lock.release(running)
    assert "seed2  running   step 5 of 9  val loss 3.0000  1 min 15 s left" in out
    assert "1 of 3 runs ended" in out
    assert "go on with" not in out


def test_without_a_folder_the_newest_is_shown(show, tmp_path):
    code, _, err = show()
    assert (code, "there is no sweep under outputs/train" in err) == (2, True)
    made_up(tmp_path / "outputs" / "train" / "s", [{"seed": 1}], [2.0])
    code, out, _ = show()
    assert (code, "sweep: 1 run" in out or "sweep of seed: 1 run" in out) == (0, True)


def test_what_is_no_sweep_is_one_line(show, tmp_path):
    for name in ("nowhere", str(tmp_path)):
        code, out, err = show(name)
        assert (code, out, len(err.splitlines())) == (2, "", 1)
