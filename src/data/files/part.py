"""What every reader yields: the records of a part of some rows."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

Row = Mapping[str, Any]

TRAIN, VALIDATION, TEST = SPLITS = ("train", "validation", "test")

# The hub takes "eval" for test; beside a test split it can only be validation, and so it is here.
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("validation", "valid", "val", "dev", "eval", "evaluation"), VALIDATION),
    **dict.fromkeys(("test", "testing"), TEST),
}


class Broken(NamedTuple):
    """A place that should hold a row and does not: what stands there instead.

    ``is_of_disk``: the file may be whole, but cannot be read on; such a row is never passed over.
    """

    what: str
    is_of_disk: bool = False


Record = tuple[int, Row | Broken]  # the number of its line or row, and what stands there


@dataclass(frozen=True)
class Part:
    """Rows of one file or hub split.

    name: of the file or hub split, for messages.
    split: the one that the file itself names; None: it does not.
    records: reads them, from the start, each time it is called; raises UserError.
    unit: what a record's number counts.
    unused: what the file holds beside its rows, such as "key extra".
    """

    name: str
    split: str | None
    records: Callable[[], Iterable[Record]]
    unit: str = "line"
    unused: tuple[str, ...] = ()

    def place(self, number: int) -> str:
        """Return where record ``number`` stands, for a person."""
        return f"{self.name}, {self.unit} {number}"
