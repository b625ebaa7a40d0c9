"""A run that others have left behind ends early, and is whole all the same."""

from pathlib import Path

import pytest

from src.talk.model_folder import load_model_folder
from src.train import process_arguments
from src.training.hparams import Choices
from src.training.start import start_run
from src.training.status import read_status
from tests.training.conftest import SMALL, curves, metrics, settings


@pytest.fixture
def pruned_run(tmp_path: Path) -> tuple[Path, list]:
    """A run that is told at its second validation within training that others are better."""
    told = []

    def find_better(step: int, num_steps: int, loss: float) -> str | None:
        told.append((step, num_steps, loss))
        return "6 is above the median" if len(told) == 2 else None

    folder = tmp_path / "run"
    folder.mkdir()
    typed = [*SMALL, f"data.corpus_dir={tmp_path / 'corpora'}", "max_steps=24"]
    assert (
        start_run(*settings(*typed), folder, typed, choices=Choices(find_better=find_better))
        is None
    )
    return folder, told


def test_a_run_that_is_behind_ends_after_that_validation(pruned_run):
    folder, told = pruned_run
    assert [step for step, _, _ in told] == [5, 10]  # not asked about the weights it began with
    assert {num_steps for _, num_steps, _ in told} == {24}
    figures = metrics(folder)
    assert figures["val/loss"] == told[-1][2]
    assert figures["num_steps"] == 10
    assert max(curves(folder)["train/loss"]) == 10
    assert not any(key.startswith("test/") for key in figures)  # the test split is for the end
    status = read_status(folder)
    assert (status.state, status.step, status.num_steps) == ("finished", 10, 24)
    assert status.reason == "pruned at step 10: val/loss 6 is above the median"
    assert status.best_val_loss == figures["best_val/loss"]
    assert (
        load_model_folder(str(folder / "model")).model.num_parameters == figures["num_parameters"]
    )


def test_it_does_not_go_on_and_says_why(pruned_run, capsys):
    folder, _ = pruned_run
    with pytest.raises(SystemExit) as end:
        process_arguments([f"resume={folder}"])
    assert not end.value.code
    assert "is finished (pruned at step 10: val/loss 6" in capsys.readouterr().err
