"""The values of ``conf/data``: types and ranges, no defaults."""

from dataclasses import dataclass

from src.data.template import SUPERVISE_MODES
from src.errors import UserError

SOURCES = ("hub", "file", "sample")


@dataclass
class DataConfig:
    """What ``conf/data`` holds; its comments say what each value means."""

    source: str
    path: str | None
    train_split: str | None
    validation_split: str | None
    test_split: str | None
    validation_fraction: float
    test_fraction: float
    columns: dict[str, str] | None
    max_rows: int | None
    block_size: int | None
    packing: bool
    supervise: str
    corpus_dir: str
    num_workers: int

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            UserError: names the key and what it may be.
        """
        if self.source not in SOURCES:
            raise UserError(f"data.source={self.source}: must be one of {', '.join(SOURCES)}")
        if self.supervise not in SUPERVISE_MODES:
            raise UserError(
                f"data.supervise={self.supervise}: must be one of {', '.join(SUPERVISE_MODES)}"
            )
        if self.source != "sample" and not self.path:
            raise UserError("data.path is missing: name a file, for example data.path=rows.jsonl")
        if self.block_size is not None and self.block_size < 8:
            raise UserError(f"data.block_size={self.block_size}: must be at least 8")
        if self.max_rows is not None and self.max_rows < 1:
            raise UserError(f"data.max_rows={self.max_rows}: must be at least 1, or null for all")
        for key in ("validation_fraction", "test_fraction"):
            if not 0 <= getattr(self, key) < 0.5:
                raise UserError(f"data.{key}={getattr(self, key)}: must be in [0, 0.5)")
        if self.num_workers < 0:
            raise UserError(f"data.num_workers={self.num_workers}: must be 0 or more")
