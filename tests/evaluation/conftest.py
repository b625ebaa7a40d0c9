import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from tests.training.conftest import SMALL, settings

DATA = ("data=sample", "data.max_rows=120")  # the rows of the small run
ROUNDING = 5e-6  # of a loss of about 5 in float32, whatever adds it up: ten units in the last place


@pytest.fixture(scope="session")
def runs(tmp_path_factory, worker_id) -> Callable[..., Path]:
    """Train the small model of the training's tests, once for each set of overrides."""
    base = tmp_path_factory.getbasetemp()
    root = (base if worker_id == "master" else base.parent) / "evaluated"
    root.mkdir(exist_ok=True)

    def run(*overrides: str) -> Path:
        from src.training.start import start_run

        name = hashlib.sha256(json.dumps(overrides).encode()).hexdigest()[:8]
        folder = root / f"run_{name}"
        with FileLock(root / f"{name}.lock"):
            if not (folder / "metrics.json").exists():
                folder.mkdir()
                given = [*SMALL, f"data.corpus_dir={root / 'corpora'}", *overrides]
                assert start_run(*settings(*given), folder, given) is None
        return folder

    return run
