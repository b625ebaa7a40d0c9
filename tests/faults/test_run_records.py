"""``run.json`` damaged, or written by somebody who means harm: data at most, or refused."""

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from src import train
from src.errors import UserError
from src.training import lock
from src.training.record import read_record
from tests.faults.conftest import count
from tests.faults.test_signals import LAYOUT
from tests.training.conftest import settings

Content = dict[str, Any]


@pytest.fixture(autouse=True)
def _locks() -> Iterator[None]:
    yield
    for folder in list(lock._held):
        lock.release(folder)


def good(folder: Path) -> Path:
    """A folder as a run leaves it that was killed before its first checkpoint."""
    folder.mkdir(parents=True)
    content = {
        "overrides": ["seed=3"],
        "settings": {"seed": 3, "trainer.precision": "auto"},
        "machine": {"device": "cpu", "devices": 1, "precision": "32-true", "micro_batch_size": 8},
        "config": {"seed": 3},
        "job": None,
    }
    (folder / "run.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def text(content: Any) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")

    return damage


def data(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) and None


def changed(**changes: Any) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")

    return damage


def replaced(make: Callable[[Path], Any]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.unlink()
        make(path)

    return damage


DAMAGES: dict[str, Callable[[Path], None]] = {
    "empty": data(b""),
    "blank": text("  \n"),
    "cut in the middle": lambda path: path.write_bytes(path.read_bytes()[:120]) and None,
    "cut by one": lambda path: path.write_bytes(path.read_bytes()[:-1]) and None,
    "zeros, as after a power cut": data(bytes(4096)),
    "no text": data(bytes(range(256))),
    "utf-16": lambda path: path.write_bytes(path.read_text("utf-8").encode("utf-16")) and None,
    "a list": text([1, 2]),
    "null": text("null"),
    "a number of a million digits": text("9" * 10**5),
    "nested without end": text("[" * 10**5),
    "another program's": text({"name": "package", "version": "1"}),
    "settings that are a list": changed(settings=[]),
    "no machine": changed(machine=None),
    "a machine of texts": changed(machine={"devices": "two"}),
    "no devices": changed(machine={"devices": 0}),
    "true devices": changed(machine={"devices": True}),
    "a config that is a text": changed(config="seed=3"),
    "an empty config": changed(config={}),
    "no setting at all": text({"settings": {}, "machine": {}}),
    "a group that is a number": changed(config={"data": 3}),
    "a key that is none of ours": changed(config={"sed": 3}),
    "a key of a group that is none of ours": changed(config={"trainer": {"device": 3}}),
    "too large": data(b" " * 2**21),
    "a folder": replaced(Path.mkdir),
    "a pipe": replaced(os.mkfifo),
    "a link": replaced(lambda path: path.symlink_to("/dev/zero")),
    "a link to nothing": replaced(lambda path: path.symlink_to("gone")),
    "nobody may read it": replaced(lambda path: (path.touch(), path.chmod(0))),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_record_is_passed_over_or_refused(damage, tmp_path, monkeypatch, capsys):
    if damage == "nobody may read it" and os.geteuid() == 0:
        pytest.skip("root may read everything")
    monkeypatch.chdir(tmp_path)
    runs = Path("outputs/train")
    whole, damaged = good(runs / "whole"), good(runs / "damaged")
    os.utime(whole / "run.json", (1, 1))
    DAMAGES[damage](damaged / "run.json")
    arguments = train.process_arguments(["resume=auto"])
    assert "resume=outputs/train/whole" in arguments
    said = capsys.readouterr().err
    assert said.startswith(f"resume=auto: passed over {damaged}: ")
    assert said.count("\n") == 1
    with pytest.raises(UserError) as refused:
        train.process_arguments([f"resume={damaged}"])
    assert "\n" not in str(refused.value)
    assert "run.json" in str(refused.value)


CANARY = "touch CANARY"


def override(*lines: str) -> Callable[[Content, Path], None]:
    """Put lines into the list of overrides, and each as a key of the settings and the config."""

    def plant(content: Content, folder: Path) -> None:
        content["overrides"] = [line.replace("FOLDER", str(folder)) for line in lines]

    return plant


def config(*path: str, value: Any) -> Callable[[Content, Path], None]:
    def plant(content: Content, folder: Path) -> None:
        place = content["config"]
        for name in path[:-1]:
            place = place.setdefault(name, {})
            if not isinstance(place, dict):
                return
        place[path[-1]] = value

    return plant


def setting(key: str, value: Any) -> Callable[[Content, Path], None]:
    """As of an older version, which has no config."""

    def plant(content: Content, folder: Path) -> None:
        content.pop("config", None)
        content["settings"][key] = value

    return plant


SYSTEM = {"_target_": "os.system", "command": CANARY}
HOSTILE: dict[str, Callable[[Content, Path], None]] = {
    "a callback": override(
        "+hydra.callbacks.x._target_=os.system", f"+hydra.callbacks.x.command='{CANARY}'"
    ),
    "a callback as one": override(f"+hydra.callbacks.x={{_target_:os.system,command:'{CANARY}'}}"),
    "two signs of plus": override("++hydra.callbacks.x._target_=os.system"),
    "an environment": override("+hydra.job.env_set.LD_PRELOAD=FOLDER/evil.so"),
    "a multirun": override("--multirun", "seed=1,2,3"),
    "a short multirun": override("-m", "seed=range(1000)"),
    "a folder of configs": override("--config-dir=FOLDER/conf", "+evil=evil"),
    "a path of configs": override("--config-path", "FOLDER/conf"),
    "another config": override("-cn", "evil", "-cp", "FOLDER/conf"),
    "a search path": override("hydra.searchpath=[file://FOLDER/conf]", "+evil=evil"),
    "a launcher": override("hydra/launcher=evil"),
    "a sweeper": override("hydra.sweeper._target_=os.system"),
    "a mode": override("hydra.mode=MULTIRUN"),
    "another folder": override("hydra.run.dir=FOLDER/other"),
    "a removal": override("~optimizer", "~seed"),
    "a package": override("data@hydra.callbacks=sample", "+data@_global_=sample"),
    "an environment variable": override("seed=${oc.env:HOME}"),
    "info": override("--info", "all"),
    "completion": override("--shell-completion", "install=bash"),
    "objects in the overrides": lambda content, folder: content.update(overrides=[SYSTEM, 1, None]),
    "hydra in the config": config("hydra", "callbacks", "x", value=SYSTEM),
    "a target at the top": config("_target_", value="os.system"),
    "a target in a group": config("data", "_target_", value="os.system"),
    "a target in the objective": config("objective", "_target_", value="os.system"),
    "a target in the columns": config("data", "columns", value=SYSTEM),
    "a target in the sources": config("data", "sources", value=[SYSTEM]),
    "another objective": config("objective", "name", value="../../os"),
    "defaults": config("defaults", value=["evil"]),
    "an interpolation": config("seed", value="${oc.env:HOME}"),
    "an interpolation that decodes": config("seed", value="${oc.decode:'1'}"),
    "a resolver of ours": config("data", "corpus_dir", value="${run_name:}"),
    "an interpolation in a text": config("sample_prompts", value=["${oc.env:HOME}"]),
    "a sign of plus": config("+seed", value=1),
    "a tilde": config("~seed", value=None),
    "a flag": config("-m", value=""),
    "a package in the config": config("data@hydra", value={}),
    "a dotted key": config("hydra.run.dir", value="."),
    "a class": config("__class__", value="x"),
    "a huge model": config("model", "n_layer", value=10**7),
    "a huge width": config("model", "n_embd", value=2**40),
    "a missing value": config("seed", value="???"),
    "a text for a number": config("batch_size", value="8; touch CANARY"),
    "an older hydra": setting("hydra.callbacks.x._target_", "os.system"),
    "an older plus": setting("+hydra.callbacks", SYSTEM),
    "an older interpolation": setting("seed", "${oc.env:HOME}"),
    "an older nonsense": setting("data.path.x.y", 1),
    "a machine that is none": lambda content, folder: content["machine"].update(device="${x}"),
    "a precision that is none": lambda content, folder: content["machine"].update(precision="8"),
    "a million devices": lambda content, folder: content["machine"].update(devices=10**6),
    "a job": lambda content, folder: content.update(job=[CANARY]),
}


@pytest.fixture(scope="module")
def killed(doors, tmp_path_factory) -> Path:
    """The folder of a run that was killed."""
    from tests.training.conftest import SMALL

    folder = tmp_path_factory.mktemp("stranger")
    places = (f"data.corpus_dir={folder / 'corpora'}", f"hydra.run.dir={folder / 'run'}")
    door = doors.start(
        "train", *SMALL, *LAYOUT, *places, folder=folder, PLANTED="micro-batch:15:KILL"
    )
    assert door.wait() == -9, door.err
    return folder / "run"


def planted(killed: Path, to: Path, hostile: str) -> Path:
    run = Path(shutil.copytree(killed, to / "run"))
    conf = run / "conf"
    conf.mkdir()
    (conf / "evil.yaml").write_text(f"hydra: {{callbacks: {{x: {json.dumps(SYSTEM)}}}}}", "utf-8")
    content = json.loads((run / "run.json").read_text("utf-8"))
    HOSTILE[hostile](content, run)
    (run / "run.json").write_text(json.dumps(content), "utf-8")
    return run


@pytest.mark.parametrize("hostile", HOSTILE)
def test_nothing_of_a_record_reaches_a_command_line(hostile, killed, tmp_path):
    """What Hydra composes is what a person typed; what the job adds are plain values of ours."""
    run = planted(killed, tmp_path, hostile)
    refused = ""
    try:
        arguments = train.process_arguments([f"resume={run}", "seed=1"])
        assert sorted(a.split("=")[0] for a in arguments) == [
            *("hydra.output_subdir", "hydra.run.dir", "resume", "seed"),
        ]
        read_record(run)
    except UserError as error:
        refused = str(error)
    assert "\n" not in refused
    assert not list(tmp_path.rglob("CANARY"))


SAMPLE = random.Random(15).sample(sorted(HOSTILE), count(len(HOSTILE), 3))


@pytest.mark.parametrize("hostile", SAMPLE)
def test_a_strangers_folder_goes_on_or_is_refused(hostile, killed, doors, tmp_path):
    run = planted(killed, tmp_path, hostile)
    door = doors.run("train", f"resume={run}", folder=tmp_path)
    assert door.code in (0, 2), (door.code, door.err)
    assert "Traceback" not in door.err
    if door.code == 2:
        assert sum(line.startswith("error: ") for line in door.err.splitlines()) == 1
    assert not list(tmp_path.rglob("CANARY"))
    assert not (run / "other").exists()


def test_a_text_of_a_record_means_itself(tmp_path, monkeypatch):
    """Whatever signs it holds: OmegaConf and Hydra read none of them."""
    monkeypatch.chdir(tmp_path)
    texts = ["${oc.env:HOME}", r"\${seed}", "a,b", "[x", "'", '"', "null", "???x", "~", "a=b", ""]
    good(tmp_path / "run")
    content = json.loads((tmp_path / "run" / "run.json").read_text("utf-8"))
    content["config"]["sample_prompts"] = texts
    (tmp_path / "run" / "run.json").write_text(json.dumps(content), "utf-8")
    goes_on, _ = settings("experiment=quickstart", f"resume={tmp_path / 'run'}")
    assert goes_on.sample_prompts == texts
    assert goes_on.seed == 3
