"""The values of ``conf/data``: types and ranges, no defaults."""

from dataclasses import dataclass
from typing import Annotated

from src.checks import at_least, check, one_of, within
from src.data.template import SUPERVISE_MODES
from src.errors import UserError

SOURCES = ("hub", "file", "sample")


@dataclass
class DataConfig:
    """What ``conf/data`` holds; its comments say what each value means."""

    source: Annotated[str, one_of(SOURCES)]
    path: str | None
    train_split: str | None
    validation_split: str | None
    test_split: str | None
    validation_fraction: Annotated[float, within("[0, 0.5)")]
    test_fraction: Annotated[float, within("[0, 0.5)")]
    columns: dict[str, str] | None
    max_rows: Annotated[int | None, at_least(1).or_null("for all")]
    block_size: Annotated[int | None, at_least(8)]
    packing: bool
    supervise: Annotated[str, one_of(SUPERVISE_MODES)]
    join_turns: Annotated[float, within("[0, 1]")]
    corpus_dir: str
    num_workers: Annotated[int, at_least(0)]

    def __post_init__(self) -> None:
        """Check ranges; raise UserError naming the key."""
        check(self, "data.")
        if self.source != "sample" and not self.path:
            raise UserError("data.path is missing: name a file, for example data.path=rows.jsonl")
