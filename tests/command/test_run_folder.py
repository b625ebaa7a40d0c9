"""No folder before the settings are right, and a name in it where a run has one."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from src.command import cli
from src.command.overrides import CONF, readable
from src.command.run_folder import Unused
from src.errors import UserError
from src.evaluate import evaluate
from src.files.run_name import MAX_BYTES, check_name, run_name
from src.train import around, process_arguments, read_settings, train
from tests.training.conftest import SMALL


@pytest.fixture
def start(door):
    """Start the training door; return (exit code, standard output, standard error)."""
    return lambda *arguments: door(
        train, "train", *arguments, rewrite=process_arguments, check=read_settings, around=around
    )


@pytest.mark.parametrize(
    "mistake",
    [
        "batch_size=0",
        "optimizer.learning_rate=ab",
        "optimiser.learning_rate=1e-3",
        "experiment=none_such",
        "data.path=null",
        "name=a/b",
        "max_steps=-1",
        "objective.name=poetry",
        "trainer.devices=0",
    ],
)
def test_a_refused_setting_makes_no_folder(start, tmp_path, monkeypatch, mistake):
    monkeypatch.setattr(Unused, "remove", lambda self: None)  # as if nothing were cleared away
    code, _, err = start("data=file", "data.path=rows.jsonl", mistake)
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "mistake",
    [
        "data.path=nowhere.jsonl",
        "model.pretrained=nowhere",
        "trainer.devices=3",
        "data.block_size=100000",
    ],
)
def test_a_run_that_is_refused_before_it_begins_leaves_no_folder(start, tmp_path, mistake):
    """As the rows, the model and the machine are looked at, which takes time."""
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "response": "b"}\n' * 9, "utf-8")
    code, _, err = start(
        "data=file", "data.path=rows.jsonl", "model=tiny", "data.corpus_dir=corpora", mistake
    )
    assert code == 2, err
    assert not (tmp_path / "outputs").exists()


def test_a_folder_that_was_there_keeps_what_was_in_it(start, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep", "utf-8")
    code, _, _ = start("data=file", "data.path=nowhere.jsonl", "model=tiny", "hydra.run.dir=mine")
    assert code == 2
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_a_run_that_has_begun_keeps_its_folder(start, tmp_path):
    code, _, err = start(*SMALL, "data.corpus_dir=corpora", "max_steps=2", "name=my run")
    assert code == 0, err
    (folder,) = (tmp_path / "outputs" / "train").iterdir()
    date, middle, digits = folder.name[:19], folder.name[19:-6], folder.name[-6:]
    assert date[10] == "_"
    assert middle == "_my run_"
    assert int(digits, 16) >= 0
    assert (folder / ".hydra" / "config.yaml").exists()
    (folder / "metrics.json").unlink()
    code, _, err = start(f"resume={folder}")
    assert code == 0, err
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    (folder / "metrics.json").unlink()
    code, _, err = start(f"resume={folder}", "name=other")
    assert code == 2
    assert "that run had name=my run, not other" in err
    assert folder.is_dir()


WAITS = """
import runpy, sys, time
from src.training import start

def prepare(*given):
    print("prepares", file=sys.stderr, flush=True)
    time.sleep(600)

start.prepare = prepare
sys.argv = ["train", "data=sample", "model=tiny"]
runpy.run_module("src.train", run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_before_a_run_begins_leaves_no_folder(tmp_path, number, code):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        [sys.executable, "-c", WAITS],
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        said = process.stderr.readline()
        assert said == "prepares\n"
        assert list((tmp_path / "outputs" / "train").iterdir())  # Hydra has made it
        process.send_signal(number)
        assert process.wait(60) == code
    assert not (tmp_path / "outputs").exists()


GOOD = ["baseline", "lr 1e-3", "Größe+2", "日本語", "a.b", "-x", "12", "true", "a_b", "(1)", "it's"]


@pytest.mark.parametrize("name", GOOD)
def test_any_text_that_a_folder_can_hold_is_a_name(name):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", readable([f"name={name}"]), return_hydra_config=True)
        OmegaConf.register_new_resolver("run_name", run_name, use_cache=True, replace=True)
        folder = config.hydra.run.dir
    assert config.name == name
    assert folder.startswith("outputs/train/2")
    assert folder[:-7].endswith(f"_{name}")


BAD = {
    "": "nothing in it",
    "  ": "nothing in it",
    "a/b": "it holds /",
    "a\\b": "it holds \\",
    "a=b,c": "it holds = ,",
    "a:b": "it holds :",
    'say "x"': 'it holds "',
    "${seed": "it holds ${",
    " a": "blank",
    "a ": "blank",
    "..": "nothing but dots",
    "a\nb": "cannot be printed",
    "a\x00": "cannot be printed",
    "\ud800": "cannot be printed",
    "ö" * (MAX_BYTES // 2 + 1): "102 bytes",
}


@pytest.mark.parametrize("name", BAD, ids=ascii)
def test_what_no_folder_can_be_called_is_refused_in_one_line(name):
    with pytest.raises(UserError, match=r"^name=") as refused:
        check_name(name)
    assert BAD[name] in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("value", ["a,b", "a/b", "''", "x=y"])
def test_a_sweep_has_one_name(value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^name="):
        process_arguments(readable(["-m", f"name={value}", "seed=1,2"]))


def test_a_sweep_has_a_name_and_each_of_its_jobs_a_folder(start, tmp_path):
    """A refused job, too: its reason lies there."""
    code, _, err = start(
        "-m", "name=mine", *SMALL, "data.corpus_dir=corpora", "max_steps=1", "batch_size=0,8"
    )
    assert code == 2, err
    (folder,) = (tmp_path / "outputs" / "train").iterdir()
    assert "_mine_" in folder.name
    assert len([path for path in folder.iterdir() if path.is_dir()]) == 2
    assert len(list(folder.glob("*/run.json"))) == 1


def test_an_evaluation_has_its_name(door, tmp_path):
    code, _, err = door(evaluate, "evaluate", "name=a/b", free_text=("prompts",))
    assert (code, "it holds /" in err) == (2, True)
    code, _, err = door(evaluate, "evaluate", "name=a", "output=b", free_text=("prompts",))
    assert (code, "name the folder once" in err) == (2, True)
    assert not list(tmp_path.iterdir())


def test_names_of_one_second_differ():
    assert len({run_name("x") for _ in range(20)}) >= 19  # chance may give two the same digits
    assert cli.run_name is run_name
