"""Ranks: 1 is best, equal is a tie, and a tie takes up as many places as it has members."""

from collections.abc import Sequence

from src.errors import UserError

MOST = 60  # characters of what a person typed that a message repeats


def places(values: Sequence[float]) -> list[int]:
    """Return the rank of each value, the lowest is best: 5 9 5 is 1 3 1."""
    return [1 + sum(other < value for other in values) for value in values]


def no_ranking(text: str, count: int) -> UserError:
    """Return the error that a text does not rank ``count`` replies."""
    text = f"{text[:MOST]}..." if len(text) > MOST else text or "nothing"
    return UserError(f"{text} is not a rank for each of {count} replies")
