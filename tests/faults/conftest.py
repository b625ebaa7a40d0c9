"""What the tests of faults share. ``make faults`` runs them at full size, CI at a part of it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.doors import DoorServer
from tests.training.conftest import SMALL, small_run  # noqa: F401

FULL = os.environ.get("FAULTS") == "full"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests of this folder as slow."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)


def count(full: int, ci: int) -> int:
    """Return how often a fault is tried: ``full`` times, or ``ci`` times where time is short."""
    return full if FULL else ci


@pytest.fixture(scope="session")
def doors() -> Iterator[DoorServer]:
    """What starts doors quickly."""
    with DoorServer() as server:
        yield server


@pytest.fixture
def train(doors: DoorServer, tmp_path: Path):
    """Start a training of seconds in ``tmp_path``/run with some overrides more; see ``Door``."""

    def start(*overrides: str, folder: str = "run", **environment: str):
        corpora = f"data.corpus_dir={tmp_path / 'corpora'}"
        run = f"hydra.run.dir={tmp_path / folder}"
        return doors.start(
            "train", *SMALL, corpora, run, *overrides, folder=tmp_path, **environment
        )

    return start
