"""Whoever computes asks here, between two steps, for the number of threads that fits the load."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol


class Adapting(Protocol):
    """Knows how many threads fit the load."""

    adapts: bool  # whether their number may change

    def adapt(self) -> None:
        """Compute with so many, if their number may change."""
        ...


class Following(NamedTuple):
    """Who is asked, and by which thread; None: by all."""

    by: Adapting
    thread: int | None


@contextmanager
def followed(by: Adapting, everywhere: bool = False) -> Iterator[None]:
    """Have ``follow_load`` ask ``by`` within the context: in this thread, or in all."""
    following = Following(by, None if everywhere else threading.get_ident())
    followers.append(following)
    try:
        yield
    finally:
        followers.remove(following)


def follow_load() -> None:
    """Take the number of threads that fits the load now; for the thread that computes.

    It does nothing outside ``followed``, nor within any whose number of threads is fixed: what is
    trained there depends on it.
    """
    here = (None, threading.get_ident())
    asked = [following.by for following in tuple(followers) if following.thread in here]
    if asked and all(by.adapts for by in asked):
        asked[-1].adapt()


followers: list[Following] = []
