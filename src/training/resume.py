"""How a run is found again, and which of its settings may not change when it goes on.

``run.json`` in the run folder holds the overrides it was started with, its settings and what was
chosen for the machine. It is written once; a resumed run reads it and changes nothing there.
"""

import json
from pathlib import Path
from typing import Any

from src import atomic
from src.command_line import grammatical, unquoted
from src.data.datamodule import ChatDataModule
from src.errors import UserError
from src.training.config import TrainConfig
from src.training.plan import Plan

RECORD = "run.json"

# What may change when a run goes on: nothing that the weights or the figures depend on.
MAY_CHANGE = (
    "resume",
    "sample_prompts",
    "generation.",
    "data.corpus_dir",
    "data.num_workers",
    "trainer.log_every_n_steps",
    "trainer.checkpoint_every_n_steps",
    "trainer.activation_checkpointing",
)


# Checksums of what the run learns from, and what to do when one is not as it was.
CHANGED = {
    "corpus": "the rows or the tokenizer are not what they were: put them back",
    "packing": "the rows make other blocks than they did: go on with the version that began it",
}


def find_run(resume: str, runs: Path) -> Path | None:
    """Return the run folder that ``resume`` means: a folder, or ``auto``.

    ``auto`` is the newest run that has not finished; None if there is none.

    Raises:
        UserError: the folder holds no run.
    """
    if resume != "auto":
        folder = Path(resume).expanduser()
        if not (folder / RECORD).exists():
            raise UserError(f"resume={resume}: not a run folder (no {RECORD} in it)")
        return folder
    records = [path for path in runs.rglob(RECORD) if not (path.parent / "metrics.json").exists()]
    newest = max(records, key=lambda path: path.stat().st_mtime, default=None)
    return newest.parent if newest else None


def resumed_arguments(arguments: list[str], runs: Path) -> list[str] | None:
    """Return the command line of the run that ``resume=`` names: its overrides and its folder.

    Return None if no run can go on.

    Raises:
        UserError: there is no such run, or ``-m`` asks for several.
    """
    (resume,) = [argument for argument in arguments if argument.startswith("resume=")]
    if {"-m", "--multirun"} & set(arguments):
        raise UserError(f"{resume} goes on with one run: leave out -m, or resume one after another")
    folder = find_run(unquoted(resume.removeprefix("resume=")), runs)
    if folder is None:
        return None
    recorded = json.loads((folder / RECORD).read_text(encoding="utf-8"))["overrides"]
    changes = [a for a in arguments if "=" in a and not a.startswith("-") and a != resume]
    flags = [a for a in arguments if a not in changes and a != resume]
    # Without an output_subdir Hydra does not touch the .hydra folder of the first start.
    location = [f"{key}={grammatical(folder)}" for key in ("resume", "hydra.run.dir")]
    return [*flags, *recorded, *changes, *location, "hydra.output_subdir=null"]


def read_machine(run_folder: Path) -> dict[str, Any]:
    """Return what was chosen for the machine when the run started; empty for a new run."""
    path = run_folder / RECORD
    return json.loads(path.read_text(encoding="utf-8"))["machine"] if path.exists() else {}


def forget(run_folder: Path) -> None:
    """Remove the record of a run, so that it can start again."""
    (run_folder / RECORD).unlink(missing_ok=True)


def write_record(
    run_folder: Path,
    config: TrainConfig,
    data: ChatDataModule,
    plan: Plan,
    overrides: list[str],
) -> None:
    """Write ``run.json`` for a new run; for one that goes on, check that it is the same run.

    Raises:
        UserError: a setting, the rows or their blocks are not what they were; says which.
    """
    path = run_folder / RECORD
    checksums = {"corpus": data.key, "packing": data.splits["train"].packing.checksum}
    settings = plan.settings(config) | checksums
    if not path.exists():
        started = [o for o in overrides if not o.startswith(("resume=", "sweep=", "hydra"))]
        record = {"overrides": started, "machine": plan.choices, "settings": settings}
        atomic.write_json(path, record)
        return
    before = json.loads(path.read_text(encoding="utf-8"))["settings"]
    for key, value in settings.items():
        # An older version may have recorded fewer settings.
        if key.startswith(MAY_CHANGE) or before.get(key, value) == value:
            continue
        if key in CHANGED:
            raise UserError(f"resume={config.resume}: {CHANGED[key]}, or start a new run")
        raise UserError(
            f"resume={config.resume}: that run had {key}={before.get(key)}, not {value}; leave it "
            f"as it was, or start a new run"
        )
