"""Power loss: what is on the disk at any moment is enough to go on.

A run writes to a file system in a file, which is copied while the run stands still: what the
kernel has not yet written to it is lost, as when the power goes. Each copy is mounted, and the run
goes on.
"""

import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch

from src.files import atomic
from src.training.checkpoints import find_checkpoint, read_weights
from tests.faults.conftest import count
from tests.faults.doors import Door
from tests.faults.sameness import untimed
from tests.training.conftest import SMALL, metrics

MEGABYTES = 48
LAYOUT = ("trainer.checkpoint_every_n_steps=2", "max_steps=30", "trainer.val_every_n_steps=4")
NUM_SAVES = 20  # every second step and after each validation, of 30 steps


@contextmanager
def mounted(image: Path, folder: Path) -> Iterator[None]:
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def image(tmp_path) -> Path:
    """A file with an empty ext4 file system."""
    path = tmp_path / "image"
    with path.open("wb") as file:
        file.truncate(MEGABYTES * 2**20)
    make = ["mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(path)]
    try:
        subprocess.run(make, check=True, capture_output=True)
        with mounted(path, tmp_path / "disk"):
            pass
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("no file system in a file can be mounted here: that takes root")
    return path


def start(doors, folder: Path, *overrides: str, **environment: str) -> Door:
    values = (f"data.corpus_dir={folder / 'corpora'}", f"hydra.run.dir={folder / 'run'}")
    given = (*SMALL, *LAYOUT, *values, *overrides)
    return doors.start("train", *given, folder=folder.parent, **environment)


def stands_still(door: Door) -> bool:
    """Wait until a process has stopped, all calls of the system done; False if it has ended."""
    tasks = Path(f"/proc/{door.pid}/task")
    while door.poll() is None:
        states = set()
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread has ended meanwhile
            for task in tasks.iterdir():
                states.add((task / "stat").read_text().rsplit(")", 1)[1].split()[0])
            if states <= {"T", "t"}:
                return True
        time.sleep(0.001)
    return False


def copies_of(doors, image: Path, folder: Path, number: int) -> list[Path]:
    """Return copies of the image at random moments of a run, and let it end.

    It stops by itself before some of its saves, however slow this process is. The first copy is
    made there, the others a little later.
    """
    copies: list[Path] = []
    saves = [1 + int((i + random.random()) * NUM_SAVES / number) for i in range(number)]
    door = start(doors, folder, PLANTED=",".join(f"checkpoint:{n}:STOP" for n in saves))
    while len(copies) < number and stands_still(door):
        if copies:
            door.send(signal.SIGCONT)
            time.sleep(random.uniform(0.0, 0.05))
            door.send(signal.SIGSTOP)
            if not stands_still(door):
                break
        copies.append(image.with_name(f"copy{time.monotonic_ns()}"))
        subprocess.run(["cp", "--sparse=always", str(image), str(copies[-1])], check=True)
        door.send(signal.SIGCONT)
    assert door.wait() == 0, door.err
    return copies


def test_a_run_goes_on_after_a_power_loss_as_if_there_had_been_none(doors, image, tmp_path):
    folder = tmp_path / "disk"
    number = count(20, 2)
    copies: list[Path] = []
    random.seed(17)
    with mounted(image, folder):
        while len(copies) < number:
            shutil.rmtree(folder / "run", ignore_errors=True)
            copies += copies_of(doors, image, folder, number - len(copies))
        weights = read_weights(folder / "run" / "checkpoints" / "last.ckpt")[1]
        weights = {name: tensor.clone() for name, tensor in weights.items()}
        figures = metrics(folder / "run")
    kinds = []
    for copy in copies:
        with mounted(copy, folder):
            kinds.append(goes_on(doors, folder, weights, figures))
    assert "resumed" in kinds, kinds


def goes_on(doors, folder: Path, weights: dict[str, torch.Tensor], figures: dict) -> str:
    """Check that the run in ``folder`` goes on or starts anew, to the same end; say which."""
    run = folder / "run"
    records = [run / "run.json", run / "before.json", *run.glob("model/*"), *run.glob("*/*.ckpt")]
    for path in records:
        assert atomic.PART.fullmatch(path.name) or not path.exists() or path.stat().st_size, path
    checkpoint = find_checkpoint(run)
    is_known = (run / "run.json").exists()
    is_done = (run / "metrics.json").exists()
    assert is_known or checkpoint is None
    door = start(doors, folder, *([f"resume={run}"] if is_known else []))
    assert door.wait() == 0, door.err
    assert "Traceback" not in door.err
    assert "damaged" not in door.err
    assert ("has no checkpoint yet" in door.err) == (is_known and checkpoint is None)
    end = read_weights(run / "checkpoints" / "last.ckpt")[1]
    assert all(torch.equal(end[name], tensor) for name, tensor in weights.items())
    assert untimed(metrics(run)) == untimed(figures)
    assert not [path for path in folder.rglob(".*") if atomic.PART.fullmatch(path.name)]
    return "ended" if is_done else "resumed" if checkpoint else "anew"
