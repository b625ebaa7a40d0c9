"""The list of runs: each once, in order, whatever lies beside them, fast and without torch."""

import json
import os
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from src.records.runs import Run, Sweep, find_runs
from src.records.table import as_json, table_lines
from src.runs import runs
from src.training import lock

ROOT = Path(__file__).parents[2]


def make_run(folder: Path, state: str | None = "finished", **changes: Any) -> Path:
    """A run folder as ours are, without weights."""
    folder.mkdir(parents=True)
    settings = {"model.n_layer": 4, "model.n_embd": 128, "data.source": "sample", "seed": 1}
    record = {
        "overrides": [],
        "settings": settings | changes.pop("settings", {}),
        "machine": {"device": "cpu"},
        "config": {"seed": 1},
    }
    record |= {key: changes[key] for key in ("start",) if key in changes}
    (folder / "run.json").write_text(json.dumps(record), "utf-8")
    if state is not None:
        status = {"state": state, "step": 5, "num_steps": 10, "best_val/loss": 1.5, "updated": ""}
        status |= {key: changes[key] for key in ("reason",) if key in changes}
        if state == "finished":
            status["step"] = 10
        (folder / "status.json").write_text(json.dumps(status), "utf-8")
    if state == "finished":
        metrics = {"best_val/loss": 1.25, "exact_match": 0.875, "num_steps": 10}
        (folder / "metrics.json").write_text(json.dumps(metrics), "utf-8")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three runs, a sweep of three, and what else may lie there."""
    place = tmp_path / "outputs" / "train"
    make_run(place / "2026-01-01_10-00-00_aaaaaa")
    make_run(place / "2026-01-03_10-00-00_baseline_bbbbbb", settings={"model.pretrained": "x/gpt2"})
    noon = datetime(2026, 1, 2, 12).astimezone().isoformat()  # names hold local times, too
    make_run(place / "mine", "stopped", start=noon)
    sweep = place / "2026-01-02_20-00-00_cccccc"
    make_run(sweep / "10_lr1e-3")
    make_run(sweep / "2_lr5e-3", "failed", reason="batch_size=0: must be at least 1")
    make_run(sweep / "0_lr1e-2")
    (sweep / "multirun.yaml").write_text("x: 1", "utf-8")
    (place / "notes").mkdir()
    (place / "notes.txt").write_text("hello", "utf-8")
    (place / "gone").symlink_to("nowhere")
    return place


def test_runs_come_newest_first_and_jobs_under_their_sweep(folder):
    found = find_runs(folder)
    assert [entry.folder.name[-6:] for entry in found] == ["bbbbbb", "cccccc", "mine", "aaaaaa"]
    sweep = found[1]
    assert isinstance(sweep, Sweep)
    assert [job.folder.name for job in sweep.jobs] == ["0_lr1e-2", "2_lr5e-3", "10_lr1e-3"]


def test_a_row_says_what_a_run_is_and_what_became_of_it(folder):
    run = find_runs(folder)[0]
    assert isinstance(run, Run)
    assert (run.model, run.data, run.step, run.num_steps) == ("gpt2", "sample", 10, 10)
    assert (run.val_loss, run.exact_match, run.state) == (1.25, 0.875, "finished")
    assert run.num_bytes == sum(path.stat().st_size for path in run.folder.iterdir())
    stopped = find_runs(folder)[2]
    assert (stopped.model, stopped.step, stopped.num_steps) == ("4x128", 5, 10)
    assert (stopped.val_loss, stopped.exact_match, stopped.state) == (1.5, None, "stopped")


def test_the_table_shows_all_of_it_in_a_hundred_columns(folder):
    lines = table_lines(find_runs(folder), folder, 100)
    assert lines[0].split() == "when name model data steps val loss exact status size".split()
    assert max(map(len, lines)) <= 100
    text = "\n".join(lines)
    assert "2026-01-03_10-00-00  baseline_bbbbbb  gpt2" in text
    assert "5/10" in text
    assert "87.5%" in text
    assert "\n                     cccccc" not in text
    assert "3 jobs" in text
    assert "failed: 2026-01-02_20-00-00_cccccc/2_lr5e-3: batch_size=0: must be at least 1" in text
    assert "6 runs" in text


def test_when_and_name_make_the_folder_even_if_reading_rows_took_a_while(tmp_path):
    name = "2026-01-04_10-00-00_late_eeeeee"
    make_run(tmp_path / name, start="2026-01-04T10:07:00+00:00")
    when, short = table_lines(find_runs(tmp_path), tmp_path, 100)[1].split()[:2]
    assert f"{when}_{short}" == name


def test_long_names_are_cut_and_numbers_are_not(folder):
    name = "2026-01-04_10-00-00_" + "名前" * 20 + "_dddddd"
    values = {"data.path": "rows/" + "x" * 60 + ".jsonl", "data.source": "file"}
    make_run(folder / name, settings=values | {"model.pretrained": "y" * 50})
    lines = table_lines(find_runs(folder), folder, 100)
    from rich.cells import cell_len

    assert max(map(cell_len, lines)) <= 100
    assert "1.2500" in lines[1]
    assert "…" in lines[1]


def test_a_folder_may_be_a_sweep_or_a_run_itself(folder):
    (sweep,) = find_runs(folder / "2026-01-02_20-00-00_cccccc")
    assert isinstance(sweep, Sweep)
    assert len(sweep.jobs) == 3
    (run,) = find_runs(folder / "mine")
    assert isinstance(run, Run)
    assert len(find_runs(folder.parent)) == 4


def test_a_sweep_that_has_just_begun_is_one(folder):
    (folder / "2026-01-02_20-00-00_cccccc" / "multirun.yaml").unlink()
    assert isinstance(find_runs(folder)[1], Sweep)


@pytest.mark.parametrize(
    ("record", "shown"),
    [
        ('{"num_jobs": 9, "jobs": []}', ["9 jobs", "2 of 9"]),
        ('{"num_jobs": 2, "jobs": []}', ["2 jobs", "finished"]),
        ('{"num_jobs"', ["2 jobs", "finished"]),  # damaged
    ],
)
def test_runs_that_never_began_count_in_their_sweep(record, shown, tmp_path):
    make_run(tmp_path / "s" / "0")
    make_run(tmp_path / "s" / "1")
    (tmp_path / "s" / "sweep.json").write_text(record, "utf-8")
    row = table_lines(find_runs(tmp_path), tmp_path, 100)[1]
    assert [text in row for text in shown] == [True, True]


def test_a_sweep_without_a_run_yet_is_listed(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "sweep.json").write_text('{"num_jobs": 9, "jobs": []}', "utf-8")
    assert "0 of 9" in table_lines(find_runs(tmp_path), tmp_path, 100)[1]


def test_several_folders_that_stand_alone_are_refused(door, folder):
    code, out, err = door(runs, "runs", str(folder), str(folder.parent), alone="folder")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert err.endswith("name one folder, not 2\n")


DAMAGES = {
    "half a record": lambda run: (run / "run.json").write_text('{"settings": {', "utf-8"),
    "a list": lambda run: (run / "run.json").write_text("[1]", "utf-8"),
    "another program's": lambda run: (run / "run.json").write_text('{"a": 1}', "utf-8"),
    "half the figures": lambda run: (run / "metrics.json").write_text('{"a"', "utf-8"),
    "a pipe": lambda run: ((run / "run.json").unlink(), os.mkfifo(run / "run.json")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_broken_run_is_named_and_hides_no_other(damage, folder):
    broken = folder / "2026-01-01_10-00-00_aaaaaa"
    DAMAGES[damage](broken)
    found = find_runs(folder)
    assert len(found) == 4
    assert found[-1].state == "broken"
    lines = table_lines(found, folder, 100)
    assert any(line.startswith(f"broken: {broken.name}:") for line in lines)


@pytest.mark.parametrize("value", [None, [], {}, "x", 1e999, -1, True, 2**70])
def test_values_of_a_stranger_stop_no_list(value, folder):
    run = folder / "2026-01-01_10-00-00_aaaaaa"
    names = ("model.pretrained", "model.n_layer", "data.path", "data.sources", "data.source")
    record = json.loads((run / "run.json").read_text("utf-8"))
    record["settings"] = dict.fromkeys(names, value)
    (run / "run.json").write_text(json.dumps(record | {"start": value}), "utf-8")
    names = ("best_val/loss", "exact_match", "num_steps")
    (run / "metrics.json").write_text(json.dumps(dict.fromkeys(names, value)), "utf-8")
    found = find_runs(folder)
    assert len(table_lines(found, folder, 100)) > 5
    assert len([json.dumps(values) for values in as_json(found)]) == 6


def test_no_sign_of_a_name_reaches_the_terminal(folder):
    make_run(folder / "\x1b[31mred\x07", settings={"data.path": "a\x1b]0;title\x07\nb"})
    text = "\n".join(table_lines(find_runs(folder), folder, 100))
    assert "\x1b" not in text
    assert "\x07" not in text


def test_states_are_told_apart(folder):
    started = make_run(folder / "started", "running")
    killed = make_run(folder / "killed", "running")
    (folder / "begun" / ".hydra").mkdir(parents=True)
    make_run(folder / "old", None)
    assert lock.hold(started)
    try:
        states = {entry.folder.name: getattr(entry, "state", "") for entry in find_runs(folder)}
    finally:
        lock.release(started)
    assert states["started"] == "running"
    assert states[killed.name] == "killed"
    assert states["begun"] == "not begun"
    assert states["old"] == "unfinished"


def test_the_door_prints_text_or_json(folder, door, tmp_path):
    code, out, err = door(runs, "runs")
    assert (code, err) == (0, "")
    assert out.startswith("when")
    code, out, err = door(runs, "runs", "format=json", f"folder={folder}")
    assert (code, err) == (0, "")
    values = [json.loads(line) for line in out.splitlines()]
    assert len(values) == 6
    assert values[0].keys() >= {"folder", "sweep", "started", "state", "val_loss", "num_bytes"}
    assert [each["sweep"] is not None for each in values] == [False, True, True, True, False, False]


def test_a_folder_that_is_not_there_is_refused(door):
    code, out, err = door(runs, "runs", "folder=nowhere")
    assert (code, out) == (2, "")
    assert err == "error: folder=nowhere: no such folder: name one that holds runs\n"


def test_no_runs_are_said(door, tmp_path):
    (tmp_path / "empty").mkdir()
    assert door(runs, "runs", "folder=empty") == (0, "no runs in empty\n", "")


@pytest.mark.parametrize("name", ["some", "a b", "a,b", "a=b"])
def test_a_folder_may_stand_alone(name, door, tmp_path):
    (tmp_path / name).mkdir()
    assert door(runs, "runs", name, alone="folder") == (0, f"no runs in {name}\n", "")


def test_hundreds_of_runs_are_listed_fast_and_without_torch(tmp_path):
    for number in range(300):
        make_run(tmp_path / "many" / f"2026-01-01_10-00-00_{number:06x}")
    begun = time.thread_time()  # what other tests have left running is not counted
    assert len(find_runs(tmp_path / "many")) == 300
    assert time.thread_time() - begun < 1
    code = (
        "import sys; sys.argv = ['runs', 'folder=many'];"
        "import runpy; runpy.run_module('src.runs', run_name='__main__');"
        "slow = {'torch', 'lightning', 'transformers', 'datasets', 'tensorboard'};"
        "print(sorted(slow & sys.modules.keys()), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.stderr == "[]\n"
    assert done.stdout.count("finished") == 301
