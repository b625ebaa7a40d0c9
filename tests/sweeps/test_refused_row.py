"""A run that is refused before it begins has its row in TensorBoard, as any other of its sweep."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from src.errors import UserError
from src.sweeps.job import run_job
from tests.sweeps.conftest import BS, LR, made_up, status_of


def row_of(run: Path) -> dict[str, float | str]:
    content = EventAccumulator(str(run)).Reload().SummaryMetadata(metadata.SESSION_START_INFO_TAG)
    start = metadata.parse_session_start_info_plugin_data(content.plugin_data.content)
    return {key: getattr(value, value.WhichOneof("kind")) for key, value in start.hparams.items()}


@pytest.fixture
def run(tmp_path) -> Path:
    folder = made_up(tmp_path / "s", [{BS: 0, LR: 1e-3}, {BS: 4, LR: 2e-3}], [None, None])
    (folder / "bs0_lr1e-3").mkdir()
    return folder / "bs0_lr1e-3"


def fail(run: Path, *written: str) -> list[str]:
    """Return the files of points after a job that has written some, and fails."""

    def job() -> None:
        for name in written:
            (run / name).touch()
        raise UserError("batch_size=0: must be at least 1")

    run_job(job, run, run / "train.log", ["batch_size=0"])
    return [path.name for path in run.glob("events.out.tfevents.*")]


def test_a_refused_run_has_a_row_of_what_was_swept(run):
    assert len(fail(run)) == 1
    assert status_of(run)["state"] == "failed"
    assert row_of(run) == {BS: 0.0, LR: 0.001}
    assert len(fail(run)) == 1  # tried again


def test_a_run_that_fails_later_keeps_its_own_row(run):
    own = "events.out.tfevents.1.a.1.0"
    assert fail(run, own) == [own]
