"""A signal ends a run with the right exit code, after the step, and nothing is lost or left."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.faults.conftest import count
from tests.faults.doors import ROOT
from tests.faults.sameness import assert_same, assert_saved_whole, left_behind, orphans
from tests.training.conftest import SMALL

# 12 steps of two micro-batches, validated at 5 and 10, saved at 3, 6, 9 and 12 too; dropout.
LAYOUT = (
    "trainer.checkpoint_every_n_steps=3",
    "micro_batch_size=4",
    "model.dropout=0.1",
    "trainer.log_every_n_steps=2",
)
SIGNALS = ("TERM", "INT", "HUP", "USR1")
# Where a signal comes -> the places of ``planted``, each with the time it is reached.
PHASES = {
    "preparation": ("rows:1", "corpus:2", "packing:2", "tokenizer:1"),
    "accumulation": ("micro-batch:13", "micro-batch:3", "micro-batch:23"),
    "a step due for validation": ("micro-batch:9", "micro-batch:10", "micro-batch:20"),
    "validation": ("first validation:1", "validation:1", "replies:2", "validation:20"),
    "saving": ("checkpoint:1", "model:2", "fsync:9", "replace:4", "checkpoint:4"),
    "test": ("test:1", "figures:1", "test:2"),
}
SECONDS = 300  # far more than a step or a validation takes, on a busy machine too


def cases() -> list[tuple[str, str, bool]]:
    """Every signal once and twice in every phase; where time is short, some of them."""
    every = [(p, s, twice) for p in ("import", *PHASES) for s in SIGNALS for twice in (False, True)]
    return random.Random(15).sample(every, count(len(every), 4))


@pytest.fixture(scope="module")
def whole(doors, tmp_path_factory) -> Path:
    """The run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    run = folder / "run"
    corpora = f"data.corpus_dir={folder / 'corpora'}"
    door = doors.run("train", *SMALL, *LAYOUT, corpora, f"hydra.run.dir={run}", folder=folder)
    assert door.code == 0, door.err
    return run


def goes_on(train, tmp_path: Path, whole: Path) -> None:
    """Go on with what was stopped, or begin again where nothing had begun; it ends the same."""
    run = tmp_path / "run"
    assert_saved_whole(run)
    given = [f"resume={run}"] if (run / "run.json").exists() else []
    door = train(*LAYOUT, *given)
    assert door.wait() == 0, door.err
    assert_same(run, whole)
    assert left_behind(tmp_path) == []


def check_end(door, code: int, number: int, tmp_path: Path) -> None:
    assert code == 128 + number, (code, door.err)
    assert "Traceback" not in door.err, door.err
    assert door.err.count("go on with: ") <= 1, door.err
    assert orphans(str(tmp_path), door.pid) == []
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize(("phase", "name", "twice"), [c for c in cases() if c[0] != "import"])
def test_a_signal_in_a_phase(phase, name, twice, train, whole, tmp_path):
    place = random.Random(f"{phase} {name} {twice}").choice(PHASES[phase])
    action = f"{name}+{name}" if twice else name
    planted = {"PLANTED": f"{place}:{action}", "MARK": str(tmp_path)}
    door = train(*LAYOUT, **planted)
    number = getattr(signal, f"SIG{name}")
    check_end(door, door.wait(SECONDS), number, tmp_path)
    goes_on(train, tmp_path, whole)


@pytest.mark.parametrize("seed", range(count(30, 1)))
def test_a_signal_at_any_time(seed, train, whole, tmp_path):
    """From outside, with workers, at a random moment; perhaps twice."""
    draw = random.Random(seed)
    number = getattr(signal, f"SIG{draw.choice(SIGNALS)}")
    door = train(*LAYOUT, f"data.num_workers={draw.choice((0, 2))}", MARK=str(tmp_path))
    time.sleep(draw.uniform(0.1, 4))
    door.send(number)
    if draw.random() < 0.3:
        time.sleep(draw.uniform(0, 0.2))
        door.send(number)
    code = door.wait(SECONDS)
    if code == 0:  # it was over, or nearly
        assert (tmp_path / "run" / "metrics.json").exists()
        return
    if code == -number:  # before the door had begun
        assert door.err == ""
    else:
        check_end(door, code, number, tmp_path)
    goes_on(train, tmp_path, whole)


@pytest.mark.parametrize(("phase", "name", "twice"), [c for c in cases() if c[0] == "import"])
def test_a_signal_while_the_libraries_are_imported(phase, name, twice, tmp_path):
    number = getattr(signal, f"SIG{name}")
    run = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "src.train", *SMALL, f"hydra.run.dir={run}"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=default_handlers,
    )
    time.sleep(random.Random(f"{name} {twice}").uniform(0.2, 2))
    process.send_signal(number)
    if twice:
        process.send_signal(number)
    _, said = process.communicate(timeout=SECONDS)
    assert process.returncode in (-number, 128 + number)  # a shell sees the same
    assert "Traceback" not in said, said
    assert left_behind(tmp_path) == []


def default_handlers() -> None:
    for name in SIGNALS:
        number = getattr(signal, f"SIG{name}")
        signal.signal(number, signal.SIG_DFL)


@pytest.mark.parametrize("name", ["HUP", "INT"][: count(2, 1)])
def test_a_signal_that_a_shell_has_switched_off_stays_off(name, train, tmp_path):
    door = train(*LAYOUT, IGNORED=name, PLANTED=f"micro-batch:5:{name}")
    assert door.wait() == 0, door.err
    assert (tmp_path / "run" / "metrics.json").exists()


def test_under_slurm_a_run_that_is_told_of_its_end_is_queued_again(train, whole, tmp_path):
    slurm = {"SLURM_JOB_ID": "17", "PATH": f"{fake_scontrol(tmp_path)}:/usr/bin:/bin"}
    door = train(*LAYOUT, PLANTED="micro-batch:9:USR1", **slurm)
    assert door.wait() == 138, door.err
    assert (tmp_path / "asked").read_text(encoding="utf-8") == "requeue 17\n"
    again = train(*LAYOUT, **slurm, SLURM_RESTART_COUNT="1")  # the same script
    assert again.wait() == 0, again.err
    assert "it goes on with" in again.err
    assert_same(tmp_path / "run", whole)


@pytest.mark.parametrize("name", ["TERM", "USR1"][: count(2, 1)])
def test_without_slurm_or_at_another_signal_nothing_is_queued(name, train, tmp_path):
    slurm = {"SLURM_JOB_ID": "17"} if name == "TERM" else {}
    path = f"{fake_scontrol(tmp_path)}:/usr/bin:/bin"
    door = train(*LAYOUT, PLANTED=f"micro-batch:9:{name}", PATH=path, **slurm)
    assert door.wait() == 128 + getattr(signal, f"SIG{name}"), door.err
    assert not (tmp_path / "asked").exists()


def test_a_queue_that_refuses_is_said_in_one_line(train, tmp_path):
    path = f"{fake_scontrol(tmp_path, 'echo no such job >&2; exit 1')}:/usr/bin:/bin"
    door = train(*LAYOUT, PLANTED="micro-batch:9:USR1", PATH=path, SLURM_JOB_ID="17")
    assert door.wait() == 138
    assert "warning: job 17 is not queued again: scontrol: no such job\n" in door.err


def fake_scontrol(tmp_path: Path, body: str | None = None) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "scontrol"
    body = body or f'echo "$@" > {tmp_path / "asked"}'
    program.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    program.chmod(0o755)
    return folder
