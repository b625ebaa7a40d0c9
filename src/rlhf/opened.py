"""A pipeline to look at: its figures, curves and replies."""

from functools import cached_property
from pathlib import Path
from typing import Any

from src.errors import UserError
from src.files.json_file import read_settings
from src.rlhf.config import PIPELINES, STEPS
from src.rlhf.picture import PICTURE
from src.rlhf.record import METRICS, RECORD, RESULTS, read_record
from src.rlhf.report import markdown_table, question_table, rows_of
from src.rlhf.steps import Places
from src.wording.command_line import command


class OpenPipeline:
    """A folder of ``src.rlhf`` whose steps are complete.

    Args:
        folder: of the pipeline.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        config = read_record(folder).config
        self.steps = [step for step in config.get("steps", []) if step in STEPS]
        self._places = Places(folder, self.steps)

    def __repr__(self) -> str:
        return f"<{self.folder}: {', '.join(self.steps)}>"

    @property
    def metrics(self) -> dict[str, Any]:
        """The flat figures: ``metrics["ppo.gold"]``."""
        return read_settings(self.folder / METRICS)

    @cached_property
    def results(self) -> dict[str, Any]:
        """Figures with their intervals, best of n, curves, questions with replies."""
        return read_settings(self.folder / RESULTS)

    @property
    def picture(self) -> Path:
        """What each step gained."""
        return self.folder / PICTURE

    def place(self, step: str) -> Path:
        """Return the folder of a step, for ``open_run``."""
        return self._places[step]

    def table(self) -> str:
        """Return the figures of the steps, as Markdown."""
        return "\n".join(markdown_table(rows_of(self.results)))

    def replies(self) -> str:
        """Return questions with the reply of each step, as Markdown."""
        return "\n".join(question_table(self.results))


def open_rlhf(folder: str | Path | None = None) -> OpenPipeline:
    """Return a pipeline to look at.

    Args:
        folder: of the pipeline; None: the newest that is complete.

    Raises:
        UserError: there is none, or it is not complete.
    """
    path = _newest() if folder is None else Path(folder).expanduser()
    pipeline = OpenPipeline(path)
    if not (path / METRICS).is_file() or not (path / RESULTS).is_file():
        raise UserError(f"{path} is not complete: go on with it ({command('rlhf', resume=path)})")
    return pipeline


def _newest() -> Path:
    found = [path.parent for path in PIPELINES.glob(f"*/{RECORD}")]
    complete = [folder for folder in found if (folder / METRICS).is_file()]
    if not complete:
        raise UserError(f"no complete pipeline in {PIPELINES}: make one ({command('rlhf')})")
    return max(complete, key=lambda folder: (folder / METRICS).stat().st_mtime)
