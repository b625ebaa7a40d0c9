"""Model folders that mean harm: one line, exit code 2, soon, in little memory; no code runs."""

import json
import os
import re
import resource
import shutil
import signal
import time

import pytest
import torch

from src.data.tokenizer import load_tokenizer, train_tokenizer
from src.errors import UserError
from src.exporting.exports import open_model_folder, write_hugging_face_folder
from src.model.pretrained import load_pretrained
from src.talk.assistant import load_assistant
from src.talk.messages import Message
from src.talk.model_folder import save_model_folder
from tests.conftest import greedy
from tests.faults.conftest import count
from tests.faults.hostile_folders import CANARY, FOLDERS
from tests.model.conftest import random_model, tiny_config

SECONDS = 10
MEMORY = 2**30  # of a door whole, its libraries too
GROWTH = 2**29  # beyond what a process begins with
NAMES = sorted(FOLDERS)
CHOSEN = NAMES[:: len(NAMES) // count(len(NAMES), 20)]
AT_DOORS = NAMES[:: len(NAMES) // count(40, 3)]


@pytest.fixture(scope="session")
def good(tmp_path_factory):
    tokenizer = train_tokenizer(["Hello there, how are you? I am fine: 1 2 3."] * 3, 280)
    model = random_model(tiny_config(vocab_size=tokenizer.vocab_size, n_layer=1))
    folder = tmp_path_factory.mktemp("good") / "model"
    save_model_folder(folder, model, tokenizer, greedy(4))
    return folder


@pytest.fixture
def build(good, tmp_path):
    """Make a hostile folder; return it and what its line must say."""

    def make(name: str):
        CANARY.unlink(missing_ok=True)
        folder = tmp_path / "model"
        shutil.copytree(good, folder)
        builder, door, message = FOLDERS[name]
        builder(folder)
        return folder, door, message

    yield make
    assert not CANARY.exists()
    shutil.rmtree(tmp_path)  # some hold gigabytes of nothing


def opened(door: str, folder, tmp_path) -> str:
    """Do what a door does with a folder; return what it says."""
    torch.set_num_threads(1)  # threads do not outlive a fork
    try:
        if door == "inspect":
            load_tokenizer(str(folder))
        elif door == "train":
            load_tokenizer(str(folder))
            load_pretrained(str(folder))
        elif door == "export":
            source = open_model_folder(str(folder))
            write_hugging_face_folder(source, tmp_path / "out", overwrite=False)
        else:
            assistant = load_assistant(str(folder), torch.device("cpu"))
            assistant.reply([Message("user", "Hello there")], greedy(2)).read_all()
    except UserError as error:
        return str(error)
    return "it opened"


def in_a_process_of_its_own(act) -> tuple[str, int, float]:
    """Return what ``act`` says, the bytes that it or a process of its took at most, and seconds.

    The bytes are those beyond what this process holds, of other tests too, and they begin with. The
    seconds are those of the processor: beside other work, a clock says little.
    """
    source, sink = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(6 * SECONDS)  # ends it
        before, held = time.process_time(), resource.getrusage(0).ru_maxrss
        try:
            said = act()
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        usages = [resource.getrusage(who) for who in (0, resource.RUSAGE_CHILDREN)]
        memory = (max(usage.ru_maxrss for usage in usages) - held) * 1024
        seconds = time.process_time() - before + usages[1].ru_utime + usages[1].ru_stime
        os.write(sink, json.dumps([said[:5000], memory, seconds]).encode())
        os._exit(0)
    os.close(sink)
    with open(source, "rb") as answer:
        content = answer.read()
    os.waitpid(pid, 0)
    assert content, "it ended without a word"
    said, memory, seconds = json.loads(content)
    return said, memory, seconds


def test_there_are_enough_of_them():
    assert len(FOLDERS) >= 130


def test_the_good_folder_opens_in_each_way(good, tmp_path):
    for door in ("chat", "inspect", "train", "export"):
        assert opened(door, good, tmp_path) == "it opened"


@pytest.mark.parametrize("name", CHOSEN)
def test_a_hostile_folder_is_refused(build, name, tmp_path):
    folder, door, message = build(name)
    said, memory, seconds = in_a_process_of_its_own(lambda: opened(door, folder, tmp_path))
    assert seconds < SECONDS
    assert re.search(message, said), said
    assert "\n" not in said
    assert len(said) < 1000
    assert memory < GROWTH
    assert not (tmp_path / "out").exists()


def arguments(door: str, folder, tmp_path) -> tuple[str, ...]:
    """What a person types to open a folder with a door."""
    return {
        "chat": ("chat", f"model_path={folder}", "prompt=Hello there", "max_new_tokens=2"),
        "serve": ("serve", f"model_path={folder}", "port=0"),
        "export": ("export", f"model_path={folder}", f"output={tmp_path / 'out'}"),
        "inspect": ("inspect_data", f"model.tokenizer={folder}", "data=sample"),
        "train": (
            *("train", f"model.pretrained={folder}", f"model.tokenizer={folder}", "data=sample"),
            *("data.max_rows=50", f"data.corpus_dir={tmp_path / 'corpora'}"),
            f"hydra.run.dir={tmp_path / 'run'}",
        ),
    }[door]


@pytest.mark.parametrize("name", AT_DOORS)
def test_at_a_door_it_is_one_line_and_code_2(doors, build, name, tmp_path):
    folder, door, message = build(name)
    (tmp_path / "work").mkdir()
    started = doors.run(*arguments(door, folder, tmp_path), folder=tmp_path / "work")
    lines = [line for line in started.err.splitlines() if not line.startswith("warning: ")]
    assert started.code == 2, started.err[-3000:]
    assert len(lines) == 1, started.err[-3000:]
    assert lines[0].startswith("error: ")
    assert re.search(message, lines[0]), lines[0]
    assert started.out == ""
    assert started.memory < MEMORY
