"""What became of the rows: read, used, dropped and why, and what was found and not used."""

import hashlib
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from src.data.shapes import ADVICE

OTHERS = ("validation", "test")  # the splits whose prompts should not be in train
OVER_MAX_ROWS = "over_max_rows"  # the reasons to leave a row out that a person asked for
OTHER_PART = "of_another_part"
ASKED_FOR = (OVER_MAX_ROWS, OTHER_PART)
SIGNS = bytes(code for code in range(128) if not chr(code).isalnum())  # " ", "?", "\n", ...


@dataclass
class RowReport:
    """What became of the rows: read = used in each split + dropped by reason.

    ``first_dropped`` and ``first_unused`` say where the first stands, and what was found there.
    ``shared_prompts``: of validation and test, how many have a first prompt that train has too,
    "exactly" or "nearly": but for case, spaces and punctuation.
    """

    read: int = 0
    used: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    first_dropped: dict[str, str] = field(default_factory=dict)
    unused: Counter[str] = field(default_factory=Counter)
    first_unused: dict[str, str] = field(default_factory=dict)
    shared_prompts: dict[str, dict[str, int]] = field(default_factory=dict)

    def drop(
        self, reason: str, place: str, found: str = "", most: int = 1, num_rows: int = 1
    ) -> None:
        """Count a row that is left out, at a ``place`` such as "a.csv, line 7".

        The first ``most`` places of a reason are kept, with what was ``found`` there. ``num_rows``
        stand for one when they are of no use but together.
        """
        self.dropped[reason] += num_rows
        if self.dropped[reason] - num_rows < most:
            text = f"{place}: {found}" if found else place
            first = self.first_dropped.get(reason)
            self.first_dropped[reason] = f"{first}; {text}" if first else text

    def not_used(self, names: Iterable[str], place: str) -> None:
        """Count what a row holds beside its conversation, by name."""
        for name in names:
            self.unused[name] += 1
            self.first_unused.setdefault(name, place)

    def explain(self, most: int = 3) -> list[str]:
        """Return a line for each of the commonest reasons: count, first place, what to do.

        Rows that ``data.max_rows`` and ``data.part`` leave out are none: a person asked for that.
        """
        lines = []
        problems = Counter({r: n for r, n in self.dropped.items() if r not in ASKED_FOR})
        for reason, count in problems.most_common(most):
            first = self.first_dropped.get(reason)
            lines.append(
                f"{count:,} {reason}"
                + (f", first {first}" if first else "")
                + (f": {ADVICE[reason]}" if reason in ADVICE else "")
            )
        return lines

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return {
            name: dict(value) if isinstance(value, Counter) else value
            for name, value in vars(self).items()
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "RowReport":
        """Return the report of ``to_json``'s values."""
        counters = {name: Counter(values[name]) for name in ("used", "dropped", "unused")}
        return cls(**values | counters)


@lru_cache(maxsize=4096)  # asked for the split, and again when the row is written
def prompt_hash(prompt: str) -> int:
    """Return a 64-bit hash of a prompt, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(prompt.encode(), digest_size=8).digest())


def normal_prompt(prompt: str) -> bytes:
    """Return a prompt without case, spaces and punctuation, in UTF-8; one of signs only stays."""
    if prompt.isascii():
        return prompt.encode().lower().translate(None, SIGNS) or prompt.encode()
    return (re.sub(r"[\W_]+", "", prompt.casefold()) or prompt).encode()


def normal_hash(prompt: str) -> int:
    """Return a 64-bit hash of ``normal_prompt``, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(normal_prompt(prompt), digest_size=8).digest())


class PromptOverlap:
    """Collects first prompts, 16 bytes a row, and counts those that train has too."""

    def __init__(self) -> None:
        self.exact: dict[str, array[int]] = {"train": array("Q")}
        self.normal: dict[str, array[int]] = {"train": array("Q")}

    def add(self, splits: Sequence[str], prompts: Sequence[str]) -> None:
        """Note the split and the first prompt of each row."""
        for split, prompt in zip(splits, prompts, strict=True):
            self.exact.setdefault(split, array("Q")).append(prompt_hash(prompt))
            self.normal.setdefault(split, array("Q")).append(normal_hash(prompt))

    def counts(self) -> dict[str, dict[str, int]]:
        """Return the figures of ``RowReport.shared_prompts``."""
        return {
            split: {
                "exactly": _num_in_train(self.exact, split),
                "nearly": _num_in_train(self.normal, split),
            }
            for split in OTHERS
            if split in self.exact
        }


def _num_in_train(hashes: Mapping[str, "array[int]"], split: str) -> int:
    prompts, train = (np.asarray(hashes[name], np.uint64) for name in (split, "train"))
    return int(np.isin(prompts, np.unique(train)).sum())
