"""What is installed is the whole program: it trains, chats and serves in an empty folder."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.training.conftest import SMALL

pytestmark = pytest.mark.whole

ROOT = Path(__file__).parents[1]
NOT_INSTALLED = ("README.md",)  # of the rooms: for who reads the code
Start = Callable[..., subprocess.CompletedProcess]


def tracked(*folders: str) -> list[str]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *folders]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    return [name for name in done.stdout.splitlines() if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of this checkout, built without a network."""
    copy, out = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("wheel")
    for name in tracked():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, copy / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*command, "--quiet", "--wheel-dir", str(out), "."],
        cwd=copy,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory) -> Path:
    """An empty environment with the wheel in it; the libraries are those of the tests."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", str(wheel)], check=True)
    paths = {"base": str(folder), "platbase": str(folder)}
    own = Path(sysconfig.get_path("purelib", vars=paths))
    # A line of a .pth is a path: the editable installation of this checkout is not found there.
    (own / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n", "utf-8")
    return folder / "bin"


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory) -> Path:
    """The folder of a person who has a package src, as many projects have."""
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "src").mkdir()
    (folder / "src" / "__init__.py").write_text("raise RuntimeError('not this one')\n", "utf-8")
    return folder


@pytest.fixture(scope="module")
def start(environment, elsewhere) -> Start:
    """Run a program of the environment there."""

    def run(program: str, *arguments: str) -> subprocess.CompletedProcess:
        variables = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
        return subprocess.run(
            [str(environment / program), *arguments],
            cwd=elsewhere,
            env=variables | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )

    return run


@pytest.fixture(scope="module")
def run_folder(start, elsewhere) -> Path:
    """A run that the installed program has trained, in two processes."""
    done = start("gpt2-chat", "train", *SMALL, "max_steps=3", "trainer.devices=2")
    assert done.returncode == 0, done.stderr
    assert "python -m src" not in done.stderr
    (folder,) = (elsewhere / "outputs" / "train").iterdir()
    assert f"gpt2-chat chat model_path={folder.relative_to(elsewhere)}/model" in done.stderr
    return folder


def test_the_wheel_holds_every_file_of_the_program(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = [name for name in tracked("src", "conf") if not name.endswith(NOT_INSTALLED)]
    assert len(expected) > 200
    assert {f"gpt2_chat/{name}" for name in expected} <= names
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"gpt2_chat"}


def test_it_trains(run_folder):
    assert json.loads((run_folder / "metrics.json").read_text("utf-8"))["num_steps"] == 3
    record = json.loads((run_folder / "run.json").read_text("utf-8"))
    assert record["command"].startswith("gpt2-chat train experiment=quickstart")
    assert record["commit"] is None


def test_it_chats(start, run_folder):
    for program in (["gpt2-chat"], ["python", "-m", "gpt2_chat"]):
        done = start(*program, "chat", "prompt=Hello", "max_new_tokens=4", "format=json")
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout)["num_new_tokens"] <= 4


def test_a_template_of_others_is_rendered_there(start, run_folder, elsewhere):
    """In a process of its own."""
    copy = elsewhere / "theirs"
    shutil.copytree(run_folder / "model", copy)
    (copy / "SHA256SUMS").unlink()
    template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    (copy / "chat_template.jinja").write_text(template, "utf-8")
    done = start("gpt2-chat", "chat", "prompt=Hello", "max_new_tokens=4", f"model_path={copy}")
    assert (done.returncode, done.stderr) == (0, "")


def test_it_lists_its_runs(start, run_folder):
    done = start("gpt2-chat", "runs")
    assert (done.returncode, done.stderr) == (0, "")
    assert run_folder.name[20:] in done.stdout


@pytest.fixture
def server(environment, elsewhere, run_folder) -> Iterator[str]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    process = subprocess.Popen(
        [str(environment / "gpt2-chat"), "serve", f"port={port}"],
        cwd=elsewhere,
        stderr=subprocess.PIPE,
    )
    yield f"http://127.0.0.1:{port}/v1"
    process.terminate()
    process.communicate(timeout=60)


def test_it_serves(server):
    body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
    request = urllib.request.Request(
        f"{server}/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    for _ in range(600):
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                answer = json.loads(response.read())
            break
        except OSError:
            time.sleep(0.2)
    assert answer["choices"][0]["message"]["role"] == "assistant"


CALLS = """
from gpt2_chat import load, open_run, train
run = open_run({folder!r})
print(len(run.data.splits["train"]), "val/loss" in run.curves)
replies = [model.reply("Hello", max_new_tokens=2) for model in (run.model, load({folder!r}))]
assert replies[0] == replies[1]
figures = train(resume={folder!r})
assert figures == run.metrics
"""


def test_the_three_calls_are_there(start, run_folder):
    done = start("python", "-c", CALLS.format(folder=str(run_folder)))
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("True\n")


def test_a_door_that_is_not_there_is_refused(start):
    done = start("gpt2-chat", "poetry")
    assert done.returncode == 2
    assert re.fullmatch(r"error: there is no door poetry: gpt2-chat \{.*train.*\n", done.stderr)
    done = start("gpt2-chat")
    assert (done.returncode, done.stderr) == (0, "")
    assert "chat,evaluate" in done.stdout


def test_another_src_that_is_imported_already_is_named(start):
    done = start(
        "python",
        "-c",
        "import sys, types; other = types.ModuleType('src'); other.__path__ = ['here']\n"
        "sys.modules['src'] = other; import gpt2_chat",
    )
    assert done.returncode == 1
    assert "another is imported already" in done.stderr


def test_a_refused_setting_leaves_no_folder(start, elsewhere, run_folder):
    before = sorted(elsewhere.iterdir())
    done = start("gpt2-chat", "train", "batch_size=0")
    assert (done.returncode, done.stderr.startswith("error: batch_size=0")) == (2, True)
    assert sorted(elsewhere.iterdir()) == before
