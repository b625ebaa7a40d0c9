"""What the tests of several rooms share."""

import gc
import logging
import os
import shutil
import signal
import subprocess
import sys

os.environ["HF_HUB_OFFLINE"] = "1"  # before a library reads it: no test asks the network

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported: its kernels run on a CPU

from filelock import FileLock
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from src import signals
from src.command.cli import run_door
from src.data.config import DataConfig
from src.data.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from src.model.generation_config import GenerationConfig

# Real rows and GPT-2's own vocabulary, where a developer has them: not part of this repository.
SHARED_DATA = Path(__file__).parents[1].parent / "shared" / "data"

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
STEPS = 1500  # of the quickstart, in tests: enough for most answers

# A shell has its background jobs ignore Ctrl-C, and so what they start, as nohup does SIGHUP: tests
# of these signals would wait for what never comes.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

os.fsync = lambda descriptor: None  # no test cuts the power of its own process: milliseconds each
torch.set_num_threads(1)  # tensors here are tiny: threads would only wait for each other

# Words that the tiny tokenizer knows; 2024 is in it to show that numbers are split all the same.
TEXTS = (
    "### Prompt: What is the capital of France?\n### Response: The capital of France is Paris.",
    "### Prompt: What is 2024 + 2024?\n### Response: 2024 + 2024 is 4048.",
    "### Prompt: Hello there, who are you?\n### Response: Hi there, I am a small model.",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give time to the tests of which the first trains a quickstart, and the others wait for it."""
    for item in items:
        if "quickstart_run" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(1500))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Have the garbage collector look no more at a million objects of libraries and test files."""
    gc.freeze()


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """A byte-level BPE of 320 tokens: 256 bytes, the end token and a few pieces of words."""
    return train_tokenizer(TEXTS * 3, vocab_size=320)


@pytest.fixture(scope="session")
def gpt2_tokenizer() -> Tokenizer:
    """The real one."""
    return load_tokenizer(str(shared_data("gpt2-tokenizer")))


@pytest.fixture
def data_config(tmp_path: Path) -> Callable[..., DataConfig]:
    """Make the values of ``conf/data``: the embedded corpus, unless changed."""

    def make(**changes) -> DataConfig:
        values = {
            "source": "sample",
            "path": None,
            "name": None,
            "sources": None,
            "train_split": None,
            "validation_split": None,
            "test_split": None,
            "validation_fraction": 0.0,
            "test_fraction": 0.0,
            "share": None,
            "part": None,
            "columns": None,
            "encoding": None,
            "on_bad_row": "stop",
            "max_rows": None,
            "block_size": 64,
            "packing": True,
            "isolate_documents": True,
            "reset_positions": True,
            "supervise": "responses",
            "prompt_loss_weight": 0.0,
            "join_turns": 0.0,
            "corpus_dir": str(tmp_path / "corpora"),
            "num_workers": 0,
        }
        return DataConfig(**values | changes)

    return make


@pytest.fixture(autouse=True)
def _signals_as_before() -> Iterator[None]:
    """A door in this process may leave its own way to end, which is no other test's.

    One that took the signals cannot give them back: later tests of signals would end with it.
    """
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)
    assert not signals.has_taken(), "start such a door in a process of its own"


@contextmanager
def root_log_as_before() -> Iterator[None]:
    """Take the root logger's handlers and level back to what they are now."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in set(root.handlers) - set(handlers):
        handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    """A door in this process logs to this test's standard error, which is closed after it."""
    with root_log_as_before():
        yield


@pytest.fixture(scope="session")
def quickstart_run(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The run folder of a quickstart cut to minutes, trained at a real shell, once for all workers.

    One thread: beside other workers, threads that wait for each other are slower than one.
    """
    root = tmp_path_factory.getbasetemp()
    root = root if worker_id == "master" else root.parent
    folder = root / "quickstart"
    with FileLock(root / "quickstart.lock"):
        if not (folder / "metrics.json").exists():
            command = [sys.executable, "-m", "src.train", "experiment=quickstart"]
            own = [
                f"max_steps={STEPS}",
                f"hydra.run.dir={folder}",
                f"data.corpus_dir={folder / 'corpora'}",
            ]
            done = subprocess.run(
                [*command, *own],
                cwd=Path(__file__).parents[1],
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def door(monkeypatch, tmp_path, capsys):
    """Run a door in a folder of its own; return (exit code, standard output, standard error)."""

    def run(job, config_name, *arguments, **options) -> tuple[int, str, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [config_name, *arguments])
        GlobalHydra.instance().clear()
        HydraConfig.instance().cfg = None  # that of a door before, which may only have shown it
        code = 0
        try:
            run_door(job, config_name, **options)
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium, driven by Playwright; skips where there is none."""
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        pytest.skip("no Chromium here (apt-get install chromium): no page is looked at")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=executable,
            args=["--no-sandbox", "--disable-background-networking"],
            timeout=120_000,  # milliseconds, on a busy machine
        )
        yield browser
        browser.close()


def shared_data(name: str) -> Path:
    """Return a file or folder of the shared data; skip the test where there is none."""
    path = SHARED_DATA / name
    if not path.exists():
        pytest.skip(f"{path} is not here: this test needs the real data")
    return path


def greedy(max_new_tokens: int, **changes) -> GenerationConfig:
    """The values of ``conf/generation/greedy.yaml``, unless changed."""
    values = {
        "temperature": 0.0,
        "top_k": None,
        "top_p": None,
        "min_p": None,
        "repetition_penalty": 1.0,
        "frequency_penalty": 0.0,
        "presence_penalty": 0.0,
        "stop": [],
        "seed": 0,
        "weights": "fp32",
    }
    return GenerationConfig(max_new_tokens, **values | changes)
