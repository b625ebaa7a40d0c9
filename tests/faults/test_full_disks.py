"""A disk that is full, broken or read-only, at each write: one line, and nothing lost."""

import contextlib
import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from src.files import atomic, disk
from src.training.checkpoints import find_checkpoint, read_weights
from src.training.events import open_logger
from src.training.start import start_run
from tests.faults.conftest import count
from tests.faults.doors import Door
from tests.training.conftest import SMALL, settings

LARGE = 64 * 1024  # kB
RUNGS = 10  # of a ladder from no room at all to nearly enough: each ends a run at another write


class Disk:
    """A small file system in memory, mounted at ``folder``."""

    def __init__(self, folder: Path):
        self.folder = folder

    def resize(self, kilobytes: int, mode: str = "rw") -> None:
        """Give it another size, or let nobody write to it (``ro``)."""
        options = f"remount,{mode},size={max(4, kilobytes)}k"
        subprocess.run(["mount", "-o", options, str(self.folder)], check=True)

    @property
    def used(self) -> int:
        """How many kB its files take."""
        return shutil.disk_usage(self.folder).used // 1024


def mounted(folder: Path) -> Iterator[Disk]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={LARGE}k", "tmpfs", str(folder)]
    try:
        refused = subprocess.run(mount, check=False, capture_output=True).returncode
    except FileNotFoundError:
        refused = 1
    if refused:
        pytest.skip("no file system can be mounted here: that takes root")
    yield Disk(folder)
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Disk]:
    yield from mounted(tmp_path / "disk")


def run_in(doors, place: Disk, *overrides: str) -> Door:
    folder = place.folder
    values = (f"data.corpus_dir={folder / 'corpora'}", f"hydra.run.dir={folder / 'run'}")
    return doors.run("train", *SMALL, *values, *overrides, folder=folder.parent)


def go_on(doors, place: Disk) -> Door:
    """Start again what has ended, as its line says."""
    run = place.folder / "run"
    resume = [f"resume={run}"] if (run / "run.json").exists() else []
    return run_in(doors, place, *resume)


@pytest.fixture(scope="module")
def whole(doors, tmp_path_factory) -> Iterator[Disk]:
    """A disk with a run that has ended."""
    for place in mounted(tmp_path_factory.mktemp("whole") / "disk"):
        door = run_in(doors, place)
        assert door.code == 0, door.err
        yield place


def weights(run: Path) -> dict[str, torch.Tensor]:
    return read_weights(run / "checkpoints" / "last.ckpt")[1]


def assert_equal_end(run: Path, whole: Disk) -> None:
    for name, tensor in weights(whole.folder / "run").items():
        assert torch.equal(weights(run)[name], tensor), name


def assert_one_line(door: Door, words: str, folder: Path) -> str:
    """Check that a door has ended with one line, and has left nothing; return the line."""
    assert door.code == 2, door.err
    (line,) = [line for line in door.err.splitlines() if line.startswith("error: ")]
    assert words in line
    assert f"{folder.name}/" in line  # below the folder in which the door was started
    assert ".tmp" not in line
    for sign in ("Traceback", "Logging error", "Exception in thread", "Exception ignored"):
        assert sign not in door.err, door.err
    assert not [path for path in folder.rglob(".*") if atomic.PART.fullmatch(path.name)]
    return line


@pytest.mark.parametrize("rung", range(0, RUNGS, count(1, 10)))
def test_a_run_that_finds_the_disk_full_goes_on_when_there_is_room(doors, small_disk, whole, rung):
    run = small_disk.folder / "run"
    small_disk.resize(whole.used * rung // RUNGS)
    door = run_in(doors, small_disk)
    line = assert_one_line(door, "No space left on device", small_disk.folder)
    assert "free" in line
    if (run / "run.json").exists():
        assert line.endswith(
            f"go on with: python -m src.train resume={run.relative_to(run.parents[1])}"
        )
    if (run / "checkpoints").exists():
        find_checkpoint(run)  # whole, or none
    small_disk.resize(LARGE)
    door = go_on(doors, small_disk)
    assert door.code == 0, door.err
    assert_equal_end(run, whole)
    assert not [path for path in small_disk.folder.rglob(".*") if atomic.PART.fullmatch(path.name)]


def test_a_disk_that_fills_up_in_the_middle_leaves_the_last_checkpoint(doors, small_disk, whole):
    run = small_disk.folder / "run"
    shutil.copytree(whole.folder, small_disk.folder, dirs_exist_ok=True)
    (run / "metrics.json").unlink()
    (run / "checkpoints" / "last.ckpt").unlink()
    before = (run / "checkpoints" / "previous.ckpt").read_bytes()
    small_disk.resize(small_disk.used + 40)  # enough for all but a checkpoint
    line = assert_one_line(go_on(doors, small_disk), "No space left", small_disk.folder)
    assert "disk/run/checkpoints/last.ckpt: " in line
    assert "it needs " in line
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["previous.ckpt"]
    assert (run / "checkpoints" / "previous.ckpt").read_bytes() == before
    small_disk.resize(LARGE)
    door = go_on(doors, small_disk)
    assert door.code == 0, door.err
    assert_equal_end(run, whole)


def test_a_read_only_disk_is_one_line(doors, small_disk):
    small_disk.resize(LARGE, "ro")
    assert_one_line(run_in(doors, small_disk), "Read-only file system", small_disk.folder)


def test_an_export_that_finds_the_disk_full_leaves_nothing(doors, small_disk, whole, tmp_path):
    model = whole.folder / "run" / "model"
    small_disk.resize(100)
    for kind in ("huggingface", "gguf"):
        output = small_disk.folder / kind
        values = (f"model_path={model}", f"output={output}", f"format={kind}")
        door = doors.run("export", *values, folder=tmp_path)
        assert_one_line(door, "No space left on device", small_disk.folder)
        assert list(small_disk.folder.iterdir()) == []
    small_disk.resize(LARGE)
    door = doors.run("export", *values, folder=tmp_path)
    assert door.code == 0, door.err


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_curves_that_find_the_disk_full_end_a_run_without_a_traceback(small_disk, capfd):
    logger = open_logger(small_disk.folder, None, rank=0)
    logger.log_metrics({"a": 1.0}, step=0)
    logger.save()
    small_disk.resize(small_disk.used)
    with pytest.raises(OSError, match="No space left"):  # noqa: PT012 - at one of the points
        for step in range(2000):
            logger.log_metrics({"a": 1.0}, step=step)
            logger.save()
    with pytest.raises(OSError, match="No space left"):
        logger.close()
    assert "Traceback" not in capfd.readouterr().err


def test_the_first_error_is_told_and_not_that_of_the_curves_after_it(small_disk, capfd):
    logger = open_logger(small_disk.folder, None, rank=0)
    logger.save()
    small_disk.resize(small_disk.used)

    def fail() -> None:
        try:
            raise disk.Unwritten(errno.ENOSPC, "No space left on device", "last.ckpt")
        finally:
            for step in range(2000):
                with contextlib.suppress(OSError, ValueError):  # the latter by way of Lightning
                    logger.log_metrics({"a": 1.0}, step=step)
            logger.finalize("failed")
            logger.close()

    with pytest.raises(disk.Unwritten) as error:
        fail()
    assert error.value.filename == "last.ckpt"


PLACES = ["checkpoints", "model", "run.json", "metrics.json", "corpora"]


@pytest.mark.parametrize("what", PLACES[: count(5, 2)])
def test_a_disk_that_breaks_is_one_line(tmp_path, monkeypatch, what):
    """An injected error of input and output, at each of our writes."""
    fsync = os.fsync

    def broken(descriptor: int) -> None:
        if what in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(descriptor)

    run = tmp_path / "run"
    run.mkdir()
    given = [*SMALL, f"data.corpus_dir={tmp_path / 'corpora'}"]
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", broken)
        with pytest.raises(disk.Unwritten) as error:
            start_run(*settings(*given), run, given)
    line = disk.refusal(error.value)
    assert line.endswith("Input/output error")
    assert what in line
    assert not [path for path in tmp_path.rglob(".*") if atomic.PART.fullmatch(path.name)]
    resume = [*given, f"resume={run}"] if (run / "run.json").exists() else given
    start_run(*settings(*resume), run, resume)
    assert (run / "metrics.json").exists()
