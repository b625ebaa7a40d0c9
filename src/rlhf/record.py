"""``rlhf.json``: what a pipeline is and how long its steps took, for the day it goes on.

As ``run.json`` of a run, it is data: a folder may be a stranger's, and nothing in it is called.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from src.errors import UserError
from src.files import atomic
from src.rlhf.config import RLHFConfig
from src.training.record import Values, read_object

RECORD = "rlhf.json"
METRICS = "metrics.json"
RESULTS = "results.json"
MAY_CHANGE = ("name", "resume", "start")  # found in another way


@dataclass
class Record:
    """What ``rlhf.json`` holds.

    Attributes:
        config: the settings, nested as in ``conf/rlhf.yaml``.
        start: the model folder that all begins with.
        seconds: that complete steps took, but for those that are runs.
        facts: the command, the code and the machine that began it.
    """

    config: Values
    start: str
    seconds: dict[str, float] = field(default_factory=dict)
    facts: Values = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write it into a pipeline's folder."""
        atomic.write_json(folder / RECORD, asdict(self))


def read_record(folder: Path) -> Record:
    """Return the record of the pipeline in ``folder``.

    Raises:
        UserError: there is none, or it is damaged.
    """
    path = folder / RECORD
    if not path.exists():
        raise UserError(f"{folder}: no pipeline in it (no {RECORD})")
    content = read_object(path)
    config, start, seconds = (content.get(key) for key in ("config", "start", "seconds"))
    if not isinstance(config, dict) or not isinstance(start, str) or not isinstance(seconds, dict):
        raise UserError(f"{path} is damaged, or not of a pipeline: no config, start and seconds")
    facts = content.get("facts")
    return Record(config, start, seconds, facts if isinstance(facts, dict) else {})


def check_same(record: Record, config: RLHFConfig, folder: Path) -> None:
    """Check that a pipeline goes on with the settings that it has.

    Raises:
        UserError: one is another; says which.
    """
    before, now = _flat(record.config), _flat(asdict(config))
    for key in {**before, **now}:
        if key.split(".")[0] in MAY_CHANGE or before.get(key) == now.get(key):
            continue
        raise UserError(
            f"{folder} was made with {key}={before.get(key)}, not {now.get(key)}: give the new one "
            f"another name (name=...), leave it as it was, or go on with resume={folder}"
        )
    if config.start is not None and _model_of(config.start) != _model_of(record.start):
        raise UserError(
            f"{folder} began with start={record.start}, not {config.start}: give the new one "
            f"another name (name=...)"
        )


def _model_of(start: str) -> Path:
    """Return the folder of the model that a run or a model folder stands for."""
    folder = Path(start).resolve()
    model = folder / "model"
    return model if model.is_dir() else folder


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
