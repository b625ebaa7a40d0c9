"""On a first run, with no cache of anything, each door says what is ours and nothing else."""

import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from src.talk.model_folder import save_model_folder
from tests.conftest import greedy
from tests.model.conftest import random_model, tiny_config
from tests.training.conftest import SMALL

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
FOREIGN = re.compile(
    r"\.py:\d+|Warning|[Dd]eprecat|HTTP Request|HYDRA|[Ff]ont|[Tt]ip:|INFO|lightning[._]pytorch"
)


@pytest.fixture
def home(tmp_path) -> dict[str, str]:
    """An environment in which no library finds a cache."""
    caches = ("XDG_CACHE_HOME", "MPLCONFIGDIR", "HF_HOME", "TORCH_HOME", "PYTHONWARNINGS")
    kept = {key: value for key, value in os.environ.items() if key not in caches}
    (tmp_path / "home").mkdir()
    return kept | {"HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def folder(tokenizer, tmp_path) -> Path:
    model = random_model(tiny_config(vocab_size=tokenizer.vocab_size, n_positions=256))
    save_model_folder(tmp_path / "model", model, tokenizer, greedy(4))
    return tmp_path / "model"


def start(home, folder: Path, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder.parent,
        env=home,
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("src.chat", "prompt=Hi", "max_new_tokens=2"),
        ("src.export", "format=gguf"),
        ("src.export",),
        ("src.inspect_data", "data=sample", "data.max_rows=20", "model=tiny", "num_blocks=1"),
    ],
    ids=" ".join,
)
def test_a_door_that_has_nothing_to_remark_is_silent(arguments, home, folder):
    takes_model = arguments[0] != "src.inspect_data"
    given = [*arguments, *([f"model_path={folder}"] if takes_model else [])]
    out, err = start(home, folder, *given).communicate(timeout=300)
    assert err == ""
    assert not FOREIGN.search(out)


OURS = (
    r"rows|blocks|steps|validation|test|step|model|device|cores|memory|run folder|warning:|"
    r"training:|validating|scoring|saving|answering|pace|measured:|trained|took|talk to it:|"
    r"see curves:|all figures:|removed:|learned|exact|"
    r"other programs keep|[\u2500-\u257f]|  +\S"
)


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param((), id="alone"),
        pytest.param(("-m", "seed=1,2"), id="sweep", marks=pytest.mark.whole),
    ],
)
def test_training_says_only_what_is_ours(flags, home, folder):
    given = [*flags, *SMALL, "max_steps=2"]
    process = start(home, folder, "src.train", *given)
    out, err = process.communicate(timeout=500)
    assert process.returncode == 0, err
    assert bool(out) == bool(flags)  # the ranking of a sweep
    for line in (out + err).splitlines():
        assert not line or flags or re.match(OURS, line), line
        assert not FOREIGN.search(line)


@pytest.mark.whole
def test_the_benchmark_says_only_what_is_ours(home, folder):
    given = ("what=prepare", "num_rows=32", "seconds=0.1", "repeats=1", "variants=[ours]")
    out, err = start(home, folder, "src.benchmark", *given).communicate(timeout=500)
    assert not [line for line in (out + err).splitlines() if FOREIGN.search(line)]


@pytest.mark.parametrize(("door", "path"), [("src.serve", "/v1/models"), ("src.web", "/")])
def test_a_server_says_where_it_is(door, path, home, folder):
    process = start(home, folder, door, f"model_path={folder}", "port=0")
    stream = process.stderr if door == "src.serve" else process.stdout
    first = stream.readline()
    assert "answers at http" in first
    address = re.search(r"http://[^/ ]+", first)[0]
    assert urllib.request.urlopen(address + path, timeout=60).status == 200
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert not [line for line in (out + err).splitlines() if FOREIGN.search(line)]
