"""Whoever computes asks here, between two steps, for the number of threads that fits the load."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Adapting(Protocol):
    """Knows how many threads fit the load."""

    def adapt(self) -> None:
        """Compute with so many, if their number may change."""
        ...


@contextmanager
def followed(by: Adapting) -> Iterator[None]:
    """Have ``follow_load`` ask ``by`` within the context."""
    followers.append(by)
    try:
        yield
    finally:
        followers.remove(by)


def follow_load() -> None:
    """Take the number of threads that fits the load now; for the thread that computes.

    It does nothing outside ``followed``, nor where the number of threads is fixed.
    """
    if followers:
        followers[-1].adapt()


followers: list[Adapting] = []
