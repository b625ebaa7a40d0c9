"""Interrupted = uninterrupted: a run killed anywhere and resumed ends with the same weights."""

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file

from src.command.cli import CONF
from src.data.packing import Packing, pack
from src.errors import UserError
from src.model.pretrained import load_pretrained
from src.objectives.sft import SFTModule
from src.train import overridden, read_settings
from src.training import lock
from src.training.checkpoint_file import write
from src.training.checkpoints import Checkpoints, find_checkpoint, saved_step
from src.training.log import TrainingLog
from src.training.resume import find_run, resumed_arguments
from src.wording.command_line import grammatical
from tests.faults.sameness import points, table, untimed
from tests.training.conftest import curves, metrics

ROOT = Path(__file__).parents[2]


class Killed(BaseException):
    """Stands for kill -9: nothing of ours catches it."""


def kill_at(monkeypatch, step: int, when: str) -> None:
    """Make the run die at an optimizer step, before or after what is saved there."""
    original = getattr(Checkpoints, when)

    def hook(self, trainer: L.Trainer, *args):
        if trainer.global_step == step and trainer.state.fn == "fit":
            raise Killed
        original(self, trainer, *args)

    monkeypatch.setattr(Checkpoints, when, hook)


def weights(folder, checkpoint="last.ckpt"):
    return torch.load(folder / "checkpoints" / checkpoint, weights_only=True)["state_dict"]


def assert_same_run(resumed, whole):
    expected, actual = weights(whole), weights(resumed)
    for name, tensor in expected.items():
        assert torch.equal(tensor, actual[name]), name
    files = [next(folder.glob("*model/model.safetensors")) for folder in (whole, resumed)]
    best = [load_file(path) for path in files]
    assert all(torch.equal(best[0][name], best[1][name]) for name in best[0])
    assert untimed(metrics(resumed)) == untimed(metrics(whole))
    expected, actual = curves(whole), curves(resumed)
    for tag in ("train/loss", "val/loss", "lr", "grad_norm"):
        assert actual[tag] == expected[tag], tag
    assert table(resumed) == table(whole)


# 12 steps, validated (and saved) at 5 and 10, saved every 3; 2 micro-batches a step, dropout on.
LAYOUT = (
    "trainer.checkpoint_every_n_steps=3",
    "micro_batch_size=4",
    "model.dropout=0.1",
    "trainer.log_every_n_steps=4",
    "data.num_workers=0",
)


@pytest.mark.parametrize(
    ("step", "when"),
    [
        (3, "on_train_batch_end"),  # nothing saved yet: starts anew in the same folder
        pytest.param(4, "on_train_batch_end", marks=pytest.mark.slow),  # between two checkpoints
        (5, "on_train_batch_end"),  # before a validation
        (5, "on_validation_end"),  # after it, before it is saved
        (6, "on_train_batch_end"),  # right after a validation was saved
        pytest.param(9, "on_train_batch_end", marks=pytest.mark.slow),
        (12, "on_train_batch_end"),  # after the last step
    ],
)
def test_a_run_killed_anywhere_and_resumed_equals_one_that_was_not(
    step, when, small_run, finished_run, monkeypatch, caplog
):
    whole = finished_run(*LAYOUT, folder="whole")
    with monkeypatch.context() as patch:
        kill_at(patch, step, when)
        with pytest.raises(Killed):
            small_run(*LAYOUT, folder="killed")
    torch.manual_seed(999)  # what the process would not remember
    caplog.set_level("INFO")
    resumed = small_run(*LAYOUT, "resume=auto", folder="killed")
    assert_same_run(resumed, whole)
    assert ("has no checkpoint yet" in caplog.text) == (step == 3)


def test_a_run_may_go_on_with_activation_checkpointing_to_the_same_weights(
    small_run, finished_run, monkeypatch
):
    whole = finished_run(*LAYOUT, folder="whole")
    with monkeypatch.context() as patch:
        kill_at(patch, 8, "on_train_batch_end")
        with pytest.raises(Killed):
            small_run(*LAYOUT, folder="killed")
    way_out = "trainer.activation_checkpointing=true"
    assert_same_run(small_run(*LAYOUT, way_out, "resume=auto", folder="killed"), whole)


@pytest.mark.parametrize(
    "val_every_n_steps", [5, pytest.param(6, marks=pytest.mark.slow)]
)  # the last step is validated after, or in fit
def test_a_run_killed_while_it_finishes_and_resumed_trains_no_further(
    val_every_n_steps, small_run, finished_run, monkeypatch, tmp_path
):
    layout = (*LAYOUT, f"trainer.val_every_n_steps={val_every_n_steps}")
    whole = finished_run(*layout, folder="whole")

    def die(self, last):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("src.training.run.Run._finish", die)
        with pytest.raises(Killed):
            small_run(*layout, folder="killed")
    assert_same_run(small_run(*layout, "resume=auto", folder="killed"), whole)
    assert points(tmp_path / "killed") == points(whole)


def test_sigterm_saves_at_the_step_boundary_and_reports_the_signal(
    small_run, finished_run, monkeypatch
):
    original = Checkpoints.on_train_batch_end

    def hook(self, trainer, *args):
        if trainer.fit_loop.epoch_loop.batch_idx == 2 * 7:  # the first half of step 8
            os.kill(os.getpid(), signal.SIGTERM)
        original(self, trainer, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "on_train_batch_end", hook)
        stopped = small_run(*LAYOUT, folder="stopped")
    assert (stopped / "signal").read_text() == str(signal.SIGTERM.value)
    saved = torch.load(stopped / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 8
    assert not (stopped / "metrics.json").exists()
    assert (stopped / "model" / "model.safetensors").exists()  # even now it can talk
    whole = finished_run(*LAYOUT, folder="whole")
    assert_same_run(small_run(*LAYOUT, "resume=auto", folder="stopped"), whole)


def test_a_stop_in_a_step_after_which_a_validation_is_due_validates_first(
    small_run, finished_run, monkeypatch
):
    original = SFTModule.training_step

    def hook(self, batch, batch_idx):
        if batch_idx == 2 * 4:  # the first half of step 5
            os.kill(os.getpid(), signal.SIGHUP)
        return original(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(SFTModule, "training_step", hook)
        stopped = small_run(*LAYOUT, folder="stopped")
    assert (stopped / "signal").read_text() == str(signal.SIGHUP.value)
    assert sorted(curves(stopped)["val/loss"]) == [0, 5]
    assert saved_step(stopped / "checkpoints" / "last.ckpt") == 5
    whole = finished_run(*LAYOUT, folder="whole")
    assert_same_run(small_run(*LAYOUT, "resume=auto", folder="stopped"), whole)
    assert points(stopped) == points(whole)


def test_the_clock_is_saved_whole(monkeypatch):
    """Tokens and seconds until the save, also those since the last log."""
    now = [100.0]
    monkeypatch.setattr("src.training.log.time", SimpleNamespace(perf_counter=lambda: now[0]))
    log = TrainingLog()
    log.num_tokens, log.started = 700, now[0] - 7
    state = log.state_dict()
    assert state["train_seconds"] == 7
    resumed = TrainingLog()
    resumed.load_state_dict(state)
    assert resumed.tokens_per_second == 100
    now[0] += 0.5
    assert log.state_dict()["train_seconds"] == 7.5  # counted once


def test_a_lock_holds_for_other_processes_and_ends_with_them(tmp_path):
    code = (
        "import pathlib, sys; from src.training.lock import hold\n"
        "print(hold(pathlib.Path(sys.argv[1])), flush=True); input()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    other = subprocess.Popen(command, cwd=ROOT, **pipes)
    assert other.stdout.readline() == "True\n"
    assert not lock.hold(tmp_path)
    other.kill()
    other.communicate()
    assert lock.hold(tmp_path)
    assert lock.hold(tmp_path)  # this process has it already
    lock.release(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_checkpoint_is_noticed_and_the_one_before_it_taken(finished_run):
    run = finished_run(*LAYOUT)
    last = run / "checkpoints" / "last.ckpt"
    previous = run / "checkpoints" / "previous.ckpt"
    assert find_checkpoint(run) == last
    data = bytearray(last.read_bytes())
    data[len(data) // 2] ^= 1
    last.write_bytes(data)
    assert find_checkpoint(run) == previous
    previous.write_bytes(b"")
    with pytest.raises(UserError, match="no whole checkpoint"):
        find_checkpoint(run)


def test_a_link_to_nothing_in_place_of_a_checkpoint_is_passed_over(small_run, finished_run):
    run = unfinished(finished_run(*LAYOUT))
    (run / "checkpoints" / "last.ckpt").unlink()
    (run / "checkpoints" / "last.ckpt").symlink_to("gone")
    small_run(*LAYOUT, "resume=auto")
    assert find_checkpoint(run) == run / "checkpoints" / "last.ckpt"


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("damage", [flip, Path.unlink])
def test_the_best_model_is_whole_again_when_its_run_goes_on(
    name, damage, finished_run, small_run, caplog
):
    run = unfinished(finished_run(*LAYOUT))
    model = run / "model"
    whole = {path.name: path.read_bytes() for path in model.iterdir()}
    damage(model / name)
    small_run(*LAYOUT, "resume=auto")
    assert f"{name}: written again" in caplog.text
    for file in {*whole} - {"README.md"}:
        assert (model / file).read_bytes() == whole[file], file


def test_what_a_person_has_edited_beside_the_best_weights_stays(finished_run, small_run, caplog):
    run = unfinished(finished_run(*LAYOUT))
    template = run / "model" / "chat_template.jinja"
    template.write_text("mine")
    small_run(*LAYOUT, "resume=auto")
    assert template.read_text() == "mine"
    assert "written again" not in caplog.text


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", None])
def test_best_weights_that_are_lost_are_named_and_the_next_take_their_place(
    name, finished_run, small_run, caplog
):
    run = unfinished(finished_run(*LAYOUT))
    model = run / "model"
    shutil.rmtree(model) if name is None else flip(model / name)
    small_run(*LAYOUT, "resume=auto")
    assert re.search(r"warning: the best weights, of step \d+, are lost: ", caplog.text)
    last = weights(run)
    best = load_pretrained(str(model)).state_dict()
    assert all(torch.equal(best[n], last[f"model.{n}"]) for n in best)
    assert metrics(run)["best_step"] == 12


def widen(state):
    state["model.wpe.weight"] = torch.zeros(64, 8)


def lengthen(state):
    state["model.h.7.ln_1.weight"] = torch.zeros(32)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (widen, "wpe.weight"),
        (lengthen, "h.7.ln_1.weight"),
        (lambda state: state.pop("model.ln_f.bias"), "ln_f.bias"),
    ],
)
def test_a_whole_checkpoint_of_another_model_is_one_line(change, name, small_run, finished_run):
    run = unfinished(finished_run(*LAYOUT))
    last = run / "checkpoints" / "last.ckpt"
    content = torch.load(last, weights_only=True)
    change(content["state_dict"])
    write(content, last)
    with pytest.raises(UserError, match=f"another model's, for example {name}") as error:
        small_run(*LAYOUT, "resume=auto")
    assert "\n" not in str(error.value)


def test_no_temporary_files_stay_beside_the_checkpoints(finished_run):
    run = finished_run(*LAYOUT)
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert names == ["last.ckpt", "previous.ckpt"]


def unfinished(run):
    """Make a run one that was killed while it was scored."""
    (run / "metrics.json").unlink()
    return run


def test_a_start_sweeps_what_a_killed_process_has_left_in_the_folders_of_its_run(
    small_run, finished_run
):
    run = finished_run(*LAYOUT)
    (run / "metrics.json").unlink()
    parts = [
        run / ".metrics.json.1073741824.tmp",
        run / "checkpoints" / ".last.ckpt.1073741824.tmp",
        run / "model" / ".model.safetensors.1073741824.tmp",
        run.parent / "corpora" / ".another.1073741824.tmp",
    ]
    (run.parent / "corpora").mkdir()
    for part in parts:
        part.write_text("half")
    (run / "model").rename(run / ".model.1073741824.old")  # killed between two renames
    small_run(*LAYOUT, "resume=auto")
    assert (run / "model" / "model.safetensors").exists()
    assert not list(run.parent.rglob(".*.1073741824.*"))


@pytest.mark.parametrize(
    "change",
    [
        "batch_size=16",
        "trainer.precision=bf16-mixed",
        "seed=2",
        "data.block_size=32",
        "max_steps=9",
        "optimizer.learning_rate=1",
        "model.n_layer=2",
    ],
)
def test_a_run_is_not_resumed_as_another_one(change, small_run, finished_run):
    unfinished(finished_run(*LAYOUT))
    key = change.split("=")[0].replace("trainer.precision", "precision")
    with pytest.raises(UserError, match=f"that run had {key}="):
        small_run(*LAYOUT, change, "resume=auto")


def test_a_run_goes_on_with_its_own_rows_only(small_run, finished_run):
    run = unfinished(finished_run(*LAYOUT))
    record = json.loads((run / "run.json").read_text())
    record["settings"]["corpus"] = "other rows"
    (run / "run.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="the rows or the tokenizer are not what they were"):
        small_run(*LAYOUT, "resume=auto")


def test_a_run_goes_on_with_its_own_blocks_only(small_run, finished_run, monkeypatch):
    """A later version of this program, or of numpy, may pack the same rows otherwise."""
    unfinished(finished_run(*LAYOUT))

    def backwards(lengths, block_size):
        packing = pack(lengths, block_size)
        sizes = np.diff(packing.offsets)[::-1]
        return Packing(np.concatenate([[0], np.cumsum(sizes)]), packing.examples[::-1])

    monkeypatch.setattr("src.data.blocks.pack", backwards)
    with pytest.raises(UserError, match="the rows make other blocks than they did"):
        small_run(*LAYOUT, "resume=auto")


def test_what_a_resumed_run_must_agree_with_is_written_down(finished_run):
    record = json.loads((finished_run(*LAYOUT) / "run.json").read_text())
    assert record["settings"]["batch_size"] == 8
    assert record["settings"]["data.block_size"] == 64
    assert record["machine"]["micro_batch_size"] == 4
    assert "batch_size=8" in record["overrides"]


def test_an_automatic_micro_batch_stays_what_it_was(small_run, monkeypatch):
    """Another machine, or less free memory: the run would count its micro-batches otherwise."""
    layout = (*LAYOUT, "micro_batch_size=auto")
    choose = "src.training.plan.choose_micro_batch_size"
    monkeypatch.setattr(choose, lambda *args: 4)
    whole = small_run(*layout, folder="whole")
    with monkeypatch.context() as patch:
        kill_at(patch, 8, "on_train_batch_end")
        with pytest.raises(Killed):
            small_run(*layout, folder="killed")
    monkeypatch.setattr(choose, lambda *args: 2)
    assert_same_run(small_run(*layout, "resume=auto", folder="killed"), whole)


def test_a_run_without_validation_rows_is_saved_all_the_same(small_run, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "question", "response": "an answer"}\n' * 20)
    own = ("data=file", f"data.path={rows}", "data.validation_fraction=0", "data.test_fraction=0")
    run = small_run(*own, "trainer.checkpoint_every_n_steps=5", "max_steps=10")
    assert saved_step(run / "checkpoints" / "last.ckpt") == 10
    assert saved_step(run / "checkpoints" / "previous.ckpt") == 5


def record(folder, finished=False, **changes):
    folder.mkdir(parents=True)
    content = {"settings": {"seed": 1}, "machine": {}, "config": {"seed": 1}} | changes
    (folder / "run.json").write_text(json.dumps(content))
    if finished:
        (folder / "metrics.json").write_text("{}")
    return folder


def test_auto_is_the_newest_run_that_has_not_finished(tmp_path):
    old = record(tmp_path / "old")
    sweep = record(tmp_path / "sweep" / "0_batch_size=4,seed=1")
    done = record(tmp_path / "done", finished=True)
    for age, folder in enumerate((done, sweep, old)):
        os.utime(folder / "run.json", (1000 - age, 1000 - age))
    assert find_run("auto", tmp_path) == sweep
    (sweep / "metrics.json").write_text("{}")
    assert find_run("auto", tmp_path) == old
    (old / "metrics.json").write_text("{}")
    assert find_run("auto", tmp_path) is None


def test_a_resumed_command_line_is_what_a_person_typed_and_the_folder(tmp_path):
    folder = record(tmp_path / "0_batch_size=4,seed=1", overrides=["hydra.job.chdir=true"])
    arguments = ["seed=3", f"resume={folder}", "--cfg", "job"]
    assert resumed_arguments(arguments, tmp_path) == [
        "seed=3",
        "--cfg",
        "job",
        f"resume={grammatical(folder)}",
        f"hydra.run.dir={grammatical(folder)}",
        "hydra.output_subdir=null",
    ]
    with pytest.raises(UserError, match="leave out -m"):
        resumed_arguments(["-m", f"resume={folder}"], tmp_path)
    own = f"hydra.run.dir={grammatical(folder)}"
    assert own in resumed_arguments([own, f"resume={folder}"], tmp_path)
    with pytest.raises(UserError, match=r"hydra\.run\.dir=other: a run goes on in its own folder"):
        resumed_arguments(["hydra.run.dir=other", f"resume={folder}"], tmp_path)


def test_what_a_person_changes_by_a_preset_is_not_read_from_the_record(tmp_path):
    folder = record(
        tmp_path / "run", config={"batch_size": 4, "seed": 7, "trainer": {"compile": False}}
    )
    with initialize_config_dir(str(CONF), version_base="1.3"):
        changes = ["hardware=a100", "seed=9"]
        keys = overridden([*changes, f"resume={folder}"])
        composed = compose("train", overrides=[*changes, "data=sample", f"resume={folder}"])
        config, _ = read_settings(composed, changes)
    assert {"seed", "trainer.compile", "resume"} <= set(keys)
    assert "data.block_size" not in keys
    assert config.trainer.compile
    assert config.seed == 9
    assert config.batch_size == 4  # the preset says what there is without it: 32


def test_a_finished_run_loses_what_a_killed_process_left_there(small_run, finished_run):
    run = finished_run(*LAYOUT)
    (run / "run.lock").touch()  # nobody holds it
    part = run / "model" / f".config.json.{2**22 + 1}.tmp"  # no such process
    part.touch()
    small_run(f"resume={run}")
    assert not (run / "run.lock").exists()
    assert not part.exists()


def test_a_finished_run_says_so_and_does_nothing_else(small_run, finished_run, caplog):
    run = finished_run(*LAYOUT)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with caplog.at_level(logging.INFO):
        small_run(*LAYOUT, "resume=auto")
    assert "is finished" in caplog.text
    (run / "signal").unlink()  # of the fixture
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_folder_that_holds_a_run_takes_no_other(small_run, finished_run):
    run = unfinished(finished_run(*LAYOUT))
    with pytest.raises(
        UserError, match=r"holds a run already: go on with it \(.*resume=.*another f"
    ):
        small_run(*LAYOUT)
    assert not (run / "run.lock").exists()
