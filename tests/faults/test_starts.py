"""Eight starts in one second on a cold cache, one of them killed: the others end as one alone."""

import json
import random
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.faults.conftest import count
from tests.faults.doors import Door
from tests.faults.hub_server import Hub, Request
from tests.faults.test_hub import (
    End,
    is_large,
    load,
    repositories,  # noqa: F401  # a fixture
    start,
)
from tests.training.conftest import SMALL

NUM_STARTS = 8
NUM_ROWS = 6000


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    row = '{"prompt": "question %d", "response": "%s"}\n'
    path.write_text("".join(row % (i, f"answer {i * i} " * 20) for i in range(NUM_ROWS)))
    return path


def start_one(doors, rows: Path, folder: Path, **environment: str) -> Door:
    """Start a training that names its run folder and finds its corpus by itself."""
    data = ["data=file", f"data.path={rows}", "max_steps=2"]
    return doors.start("train", *SMALL, *data, folder=folder, **environment)


def figures(folder: Path) -> dict[str, float]:
    metrics = json.loads((folder / "metrics.json").read_text())
    return {name: value for name, value in metrics.items() if "second" not in name}


def builder(corpora: Path) -> int | None:
    """The process that builds a corpus there, if one does."""
    names = [path.name for path in corpora.glob(".*.tmp")] if corpora.is_dir() else []
    return next((int(name.split(".")[2]) for name in names), None)


@pytest.fixture(scope="module")
def serial(doors, rows, tmp_path_factory) -> dict[str, float]:
    folder = tmp_path_factory.mktemp("serial")
    door = start_one(doors, rows, folder)
    assert door.wait() == 0, door.err
    (run,) = (folder / "outputs" / "train").iterdir()
    return figures(run)


@pytest.mark.parametrize("seed", range(count(5, 1)))
def test_eight_runs_on_a_cold_cache(doors, rows, serial, tmp_path, seed):
    """The one that is killed holds the lock and writes; in every other trial it is any of them.

    It stands still in its writing until then: others may have come to the lock meanwhile, or not.
    """
    rng = random.Random(seed)
    corpora = tmp_path / "outputs" / "corpora"
    started = []
    if seed % 2 == 0:
        started = [start_one(doors, rows, tmp_path, PLANTED="corpus:2:STOP")]
        while builder(corpora) != started[0].pid:
            assert started[0].poll() is None, started[0].err
    started += [start_one(doors, rows, tmp_path) for _ in range(NUM_STARTS - len(started))]
    time.sleep(rng.random() * 2)
    victim = rng.choice(started) if seed % 2 else started[0]
    victim.send(signal.SIGKILL)
    others = [door for door in started if door is not victim]
    for door in others:
        assert door.wait() == 0, door.err
    assert seed % 2 or victim.wait() == -signal.SIGKILL
    runs = list((tmp_path / "outputs" / "train").iterdir())
    finished = [run for run in runs if (run / "metrics.json").exists()]
    assert len(finished) in (len(others), len(started))
    assert all(figures(run) == serial for run in finished)
    names = [path.name for path in corpora.iterdir()]
    assert len(names) == 1, names  # no lock, no part


@pytest.mark.parametrize("kind", ["model", "tokenizer", "rows"] if count(3, 1) == 3 else ["model"])
def test_eight_downloads_into_a_cold_cache(repositories, tmp_path, kind):  # noqa: F811
    may_end = threading.Event()

    def slowly(request: Request) -> bool:
        time.sleep(0.1)
        if not is_large(request):
            return False
        _, headers, content = request.answer()
        middle = len(content) // 2
        request.start(200, headers, len(content))
        for part in (content[:middle], content[middle:]):
            request.wfile.write(part)
            request.wfile.flush()
            may_end.wait(200)
        return True

    with Hub(repositories, slowly) as hub:
        may_end.set()
        expected = load(kind, hub.endpoint, tmp_path / "serial")
        may_end.clear()  # so that a file is half there until one of them is killed
        started = [start(kind, hub.endpoint, tmp_path / "shared") for _ in range(NUM_STARTS)]
        while not list(tmp_path.glob("shared/hub/*/blobs/*.incomplete")):
            time.sleep(0.01)
        started[0].kill()
        may_end.set()
        ends = [finish(process) for process in started]
    assert [end.code for end in ends[1:]] == [0] * (NUM_STARTS - 1), ends
    assert {end.result for end in ends[1:]} == {expected.result}
    assert not list(tmp_path.rglob("*.incomplete"))


def finish(process: subprocess.Popen) -> End:
    out, err = process.communicate(timeout=300)
    return End(process.returncode, out, err)
