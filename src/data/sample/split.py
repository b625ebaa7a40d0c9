"""The split of a row: a pure function of its words, the same on every machine."""

import hashlib
from collections.abc import Sequence
from typing import TypeVar

TEST_SHARE = 0.10
VALIDATION_SHARE = 0.05

T = TypeVar("T")


def share(text: str) -> float:
    """Return a number in [0, 1) that depends only on `text` (SHA-256)."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64


def pick(options: Sequence[T], key: str) -> T:
    """Return one of `options`, by a hash of `key`."""
    return options[int(share(key) * len(options))]


def split_of(family: str, unit: str) -> str:
    """Return "train", "validation" or "test" for one unit of a family.

    A new row never moves another.
    """
    value = share(f"split {family} {unit}")
    if value < TEST_SHARE:
        return "test"
    return "validation" if value < TEST_SHARE + VALIDATION_SHARE else "train"
