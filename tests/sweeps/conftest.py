import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from src import train
from src.sweeps.names import folder_names
from src.sweeps.state import Job, Sweep, write_sweep
from tests.training.conftest import SMALL

LR, BS = "optimizer.learning_rate", "batch_size"
# Runs of a second: two steps of a tiny model.
TINY = (*SMALL, "data.max_rows=60", "max_steps=2", "trainer.val_every_n_steps=1")


@pytest.fixture(scope="session")
def corpora(tmp_path_factory) -> str:
    return f"data.corpus_dir={tmp_path_factory.mktemp('corpora')}"


@pytest.fixture
def sweep(door, tmp_path, corpora) -> Callable[..., tuple[int, str, str]]:
    """Start a sweep of tiny runs; return (exit code, standard output, standard error)."""

    def start(*arguments: str, values: Sequence[str] = TINY) -> tuple[int, str, str]:
        given = ["-m", *values, *([corpora] if values else []), *arguments]
        return door(
            train.train, "train", *given, rewrite=train.process_arguments, around=train.around
        )

    return start


def only_sweep(tmp_path: Path) -> Path:
    (found,) = (tmp_path / "outputs" / "train").iterdir()
    return found


def status_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "status.json").read_text(encoding="utf-8"))


def made_up(
    folder: Path,
    values: Sequence[Mapping[str, Any]],
    losses: Sequence[float | str | None],
    tokens: Sequence[float] | None = None,
) -> Path:
    """Make a sweep's folder: a loss is of a finished run, a text of a failed one, None waits."""
    folder.mkdir(parents=True, exist_ok=True)
    names = folder_names(values)
    jobs = tuple(Job(name, dict(run)) for name, run in zip(names, values, strict=True))
    write_sweep(folder, Sweep(num_jobs=len(jobs), jobs=jobs))
    for number, (job, loss) in enumerate(zip(jobs, losses, strict=True)):
        if loss is None:
            continue
        run = folder / job.folder
        run.mkdir()
        failed = isinstance(loss, str)
        status = {"state": "finished", "step": 4, "num_steps": 4, "exit_code": 0}
        if failed:
            status = {"state": "failed", "reason": loss, "step": 0, "exit_code": 2}
        (run / "status.json").write_text(json.dumps(status), encoding="utf-8")
        if not failed:
            figures = {
                "best_val/loss": loss,
                "best_val/accuracy": 0.5,
                "num_tokens": tokens[number] if tokens else 1000,
                "train_seconds": 61.5,
            }
            (run / "metrics.json").write_text(json.dumps(figures), encoding="utf-8")
    return folder
