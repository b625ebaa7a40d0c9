"""Killed at any moment, a run goes on and ends the same to the last bit, and leaves nothing."""

import os
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.conftest import count
from tests.faults.sameness import assert_same, assert_saved_whole, left_behind, orphans
from tests.faults.test_signals import LAYOUT
from tests.training.conftest import SMALL

KILLS = count(100, 2)
SECONDS = 3.0  # that such a run takes where nobody else works
MOST_KILLS = 3  # of one run, one after another
TWO = ("trainer.devices=2", "micro_batch_size=2", "trainer.accelerator=cpu")


def layout(seed: int) -> tuple[str, ...]:
    """Workers 0 and 2; a tenth in two processes."""
    own = TWO if seed % 10 == 9 else ()
    return (*LAYOUT, f"data.num_workers={2 * (seed % 4 == 1)}", *own)


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[str | None]:
    """A temporary folder on another file system than the runs', where there is one."""
    shm = Path("/dev/shm")
    if not (shm.is_dir() and os.access(shm, os.W_OK)):
        yield None
        return
    with tempfile.TemporaryDirectory(dir=shm) as folder:
        yield folder


@pytest.fixture(scope="module")
def wholes(doors, tmp_path_factory):
    """Return the run that nothing interrupts, and how many moments its saves have; made once."""
    made: dict[tuple[str, ...], tuple[Path, int]] = {}

    def whole(overrides: tuple[str, ...]) -> tuple[Path, int]:
        key = tuple(o for o in overrides if not o.startswith("data.num_workers"))
        if key not in made:
            folder = tmp_path_factory.mktemp("whole")
            run = folder / "run"
            places = (f"data.corpus_dir={folder / 'corpora'}", f"hydra.run.dir={run}")
            counted = {"PLANTED": "saves:1:count", "COUNTED": str(folder / "counted")}
            door = doors.start("train", *SMALL, *overrides, *places, folder=folder, **counted)
            assert door.wait() == 0, door.err
            made[key] = run, int((folder / "counted").read_text(encoding="utf-8"))
        return made[key]

    return whole


@pytest.mark.parametrize("seed", range(KILLS))
def test_a_killed_run_ends_as_one_that_was_not(seed, train, wholes, elsewhere, tmp_path):
    seed = seed if KILLS == 100 else seed * 3  # 9 is a run of two processes
    draw, overrides = random.Random(seed), layout(seed)
    whole, num_moments = wholes(overrides)
    temporary = {} if elsewhere is None else {"TMPDIR": elsewhere}
    run = tmp_path / "run"
    for _ in range(draw.randint(1, MOST_KILLS if KILLS == 100 else 1)):
        given = [f"resume={run}"] if (run / "run.json").exists() else []
        inside_a_save = draw.random() < 0.5
        environment = {"MARK": str(tmp_path), **temporary}
        if inside_a_save:
            environment["PLANTED"] = f"saves:{draw.randint(1, num_moments)}:KILL"
        door = train(*overrides, *given, **environment)
        if not inside_a_save:
            time.sleep(draw.uniform(0, SECONDS * (3 if "trainer.devices=2" in overrides else 1)))
            door.kill()
        door.wait()
        assert_saved_whole(run)
    given = [f"resume={run}"] if (run / "run.json").exists() else []
    door = train(*overrides, *given, MARK=str(tmp_path), **temporary)
    assert door.wait() == 0, door.err
    assert "Traceback" not in door.err
    assert_same(run, whole)
    assert orphans(str(tmp_path), door.pid) == []
    assert left_behind(tmp_path) == []


def test_who_resumes_a_run_that_is_alive_is_refused(train, tmp_path):
    """And resume=auto passes over it, until its process is killed."""
    run = "outputs/train/run"
    door = train(*LAYOUT, "max_steps=100000", folder=run)
    while "step 1/" not in door.err:
        assert door.poll() is None, door.err
        time.sleep(0.02)
    second = train(*LAYOUT, f"resume={tmp_path / run}")
    assert second.wait() == 2
    assert second.err == (
        f"error: {tmp_path / run}: another process is at this run: wait for it, or stop it\n"
    )
    auto = train(*LAYOUT, "resume=auto", folder="new")
    assert auto.wait() == 0, auto.err
    assert f"resume=auto: passed over {run}: " in auto.err
    assert (tmp_path / "new" / "metrics.json").exists()
    door.kill()
    third = train("resume=auto", "max_steps=100000", *LAYOUT, folder="never")
    while "step " not in third.err.partition("run folder")[2]:
        assert third.poll() is None, third.err
        time.sleep(0.02)
    assert f"run folder {run}\n" in third.err
    third.kill()


def test_a_folder_that_holds_a_run_takes_no_new_one(train, tmp_path):
    door = train(*LAYOUT, "max_steps=100000")
    while "step 1/" not in door.err:
        time.sleep(0.02)
    door.kill()
    before = (tmp_path / "run" / ".hydra" / "overrides.yaml").read_text(encoding="utf-8")
    second = train(*LAYOUT, "seed=2")
    assert second.wait() == 2
    assert second.err.count("\n") == 1
    assert "holds a run already: go on with it" in second.err
    after = (tmp_path / "run" / ".hydra" / "overrides.yaml").read_text(encoding="utf-8")
    assert after == before
