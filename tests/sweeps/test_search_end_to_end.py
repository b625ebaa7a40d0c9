"""The whole of a search, as a person starts it: killed, and gone on with."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from src.sweeps.outcomes import read_results
from src.sweeps.state import read_sweep

optuna = pytest.importorskip("optuna", reason="needs the extra sweep: pip install '.[sweep]'")

ROOT = Path(__file__).parents[2]
# A run of a second or two: its cost is in what is around the steps.
TINY = (
    "data=file",
    "model=tiny",
    "hardware=cpu",
    "data.block_size=64",
    "data.validation_fraction=0.3",
    "model.n_layer=1",
    "model.n_embd=32",
    "model.n_head=2",
    "model.vocab_size=300",
    "generation.max_new_tokens=2",
    "sample_prompts=[]",
    "batch_size=4",
    "micro_batch_size=4",
    "max_epochs=null",
    "max_steps=6",
    "optimizer.warmup_steps=1",
    "trainer.precision=32-true",
    "trainer.val_every_n_steps=2",
    "trainer.log_every_n_steps=1",
)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "src.train", "-m", *arguments]


def search(folder: Path, *arguments: str) -> list[str]:
    rows = folder.parent / "rows.jsonl"
    texts = [{"prompt": f"What is {n} + 1?", "response": f"It is {n + 1}."} for n in range(60)]
    rows.write_text("\n".join(map(json.dumps, texts)), encoding="utf-8")
    return command(
        *TINY,
        f"data.path={rows}",
        "sweep=optuna",
        "optimizer.learning_rate=tag(log, interval(1e-5, 1e-1))",
        f"hydra.sweep.dir={folder}",
        f"data.corpus_dir={folder.parent / 'corpora'}",
        *arguments,
    )


def run(arguments: list[str], **options) -> subprocess.CompletedProcess:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        arguments, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, **options
    )


def trials(folder: Path) -> list:
    from src.sweeps.study import open_storage

    return optuna.load_study(folder.name, open_storage(f"sqlite:///{folder}/study.db")).trials


def ended(folder: Path) -> int:
    if not (folder / "sweep.json").exists():
        return 0
    return read_results(folder, read_sweep(folder)).count("finished")


@pytest.mark.whole
def test_a_search_that_is_killed_has_twenty_trials_in_all(tmp_path):
    folder = tmp_path / "search"
    sweep = subprocess.Popen(
        search(folder), cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, start_new_session=True
    )
    while ended(folder) < 7:
        assert sweep.poll() is None
        time.sleep(0.02)
    time.sleep(0.3)
    os.killpg(sweep.pid, signal.SIGKILL)
    sweep.wait()
    before = trials(folder)
    assert 7 <= len(before) < 20

    done = run(command(f"resume={folder}"))
    assert done.returncode == 0, done.stderr
    found = trials(folder)
    states = Counter(trial.state.name for trial in found)
    assert states.total() == 20
    assert states.keys() == {"COMPLETE", "PRUNED"}
    assert states["PRUNED"] >= 3
    assert [t.params for t in found[: len(before)]] == [t.params for t in before]
    folders = [trial.user_attrs["folder"] for trial in found]
    assert all((folder / name / "model" / "config.json").is_file() for name in folders)
    assert len({*folders}) == len([path for path in folder.iterdir() if path.is_dir()]) == 20

    rows = list(csv.DictReader((folder / "results.csv").open(encoding="utf-8")))
    assert len(rows) == 20
    assert sum(row["reason"].startswith("pruned at step") for row in rows) == states["PRUNED"]
    best = min(found, key=lambda trial: trial.value)
    assert rows[0]["folder"] == best.user_attrs["folder"]
    assert float(rows[0]["best_val/loss"]) == best.value
    assert f"{states['PRUNED']} pruned" in done.stdout
    assert "optuna-dashboard sqlite:///" in done.stdout

    again = run(command(f"resume={folder}"))
    assert "is finished" in again.stderr
    assert len(trials(folder)) == 20


@pytest.mark.whole
@pytest.mark.parametrize(
    "launcher",
    [
        ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
        ["hydra/launcher=submitit_local", "hydra.sweeper.n_jobs=2"],
    ],
    ids=["joblib", "submitit"],
)
def test_jobs_side_by_side_report_to_one_study(tmp_path, launcher):
    pytest.importorskip("submitit", reason="needs the extra sweep: pip install '.[sweep]'")
    folder = tmp_path / "search"
    few = ["hydra.sweeper.n_trials=4", "hydra.sweeper.pruning.startup_trials=1"]
    done = run(search(folder, *few, *launcher))
    assert done.returncode == 0, done.stderr
    found = trials(folder)
    assert len(found) == 4
    assert {trial.state.name for trial in found} <= {"COMPLETE", "PRUNED"}
    assert all(trial.intermediate_values for trial in found)
    assert len([*(tmp_path / "corpora").glob("*/ids.npy")]) <= 1
