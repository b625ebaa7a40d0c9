"""Which side a row falls on: a pure function of its words, the same on every machine."""

import hashlib

TEST_SHARE = 0.10
VALIDATION_SHARE = 0.05


def share(text: str) -> float:
    """A number in [0, 1) that depends on nothing but `text` (SHA-256)."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64


def split_of(family: str, unit: str) -> str:
    """ "train", "validation" or "test" for one unit of a family.

    Adding rows never moves a row that was there before.
    """
    value = share(f"split {family} {unit}")
    if value < TEST_SHARE:
        return "test"
    return "validation" if value < TEST_SHARE + VALIDATION_SHARE else "train"
