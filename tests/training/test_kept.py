"""The models of every so many steps, each a folder of its own."""

import logging
import re

import pytest
import torch
from safetensors.torch import load_file

from src.talk.model_folder import load_model_folder
from src.training import kept
from src.training.checkpoints import read_weights
from tests.training.test_resume import LAYOUT, Killed, kill_at

# 7 steps, saved every 3, too.
KEEPING = (*LAYOUT, "trainer.keep_every_n_steps=3", "max_steps=7")


def folders(run):
    return sorted(path.name for path in (run / "models").iterdir())


@pytest.mark.parametrize(
    ("step", "when"),
    [
        (6, "save"),  # the folder is there, the checkpoint is not
        (7, "on_train_batch_end"),
    ],
)
def test_a_resumed_run_keeps_the_same_models(step, when, quick_run, monkeypatch, caplog):
    with caplog.at_level(logging.INFO):
        whole = quick_run(*KEEPING, folder="whole")
    assert folders(whole) == ["step_000003", "step_000006"]
    assert re.search(
        r"model of every 3 steps in models/: 2 folders, about 2\d\d\.\d kB", caplog.text
    )
    with monkeypatch.context() as patch:
        kill_at(patch, step, when)
        with pytest.raises(Killed):
            quick_run(*KEEPING, folder="killed")
    half = whole.parent / "killed" / "models" / "step_000006" / ".model.safetensors.1073741824.tmp"
    half.write_text("half")  # of a process that was killed while it wrote it again
    killed = quick_run(*KEEPING, "resume=auto", folder="killed")
    assert folders(killed) == folders(whole)
    assert not half.exists()
    for name in folders(whole):
        one, two = (
            load_file(run / "models" / name / "model.safetensors") for run in (whole, killed)
        )
        assert all(torch.equal(one[key], two[key]) for key in one), name
    model, *_ = load_model_folder(str(whole / "models" / "step_000006"))
    step, saved = read_weights(whole / "checkpoints" / "previous.ckpt")
    assert step == 6
    assert torch.equal(model.state_dict()["wte.weight"], saved["wte.weight"])


def test_names_are_in_the_order_of_their_steps_and_counted_before():
    assert kept.folder_of(200) == "step_000200"
    assert kept.num_kept(200, 0, 1000) == 5
    assert kept.num_kept(200, 0, 999) == 4
    assert kept.num_kept(200, 200, 1000) == 4  # a run that goes on from step 200
