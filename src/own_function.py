"""A person's own Python function, which a key names: ``mine.score`` of a ``mine.py``.

Whoever names a function has it called. A config and a run folder may be a stranger's, so the name
stands on the command line, each time.
"""

import importlib
import math
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from src.errors import UserError

Score = Callable[[str, list[str]], Any]  # a prompt and replies to a number for each reply


def is_own(name: object) -> bool:
    """Whether a value names a person's function, and not one of ours."""
    return isinstance(name, str) and "." in name


def check_typed(key: str, name: str, overrides: Sequence[str]) -> None:
    """Check that ``key`` stands among the overrides of the command line.

    Raises:
        UserError: another config names the function.
    """
    if not any(override.lstrip("+").startswith(f"{key}=") for override in overrides):
        raise UserError(
            f"{key}={name}: a config names this function: add it to the command line, if you know "
            f"it"
        )


def own_function(key: str, name: str, others: Sequence[str]) -> Score:
    """Return the function ``score(prompt, replies)`` of a dotted name.

    The current folder is looked at after all packages.

    Args:
        key: of the setting that names it.
        name: the dotted name.
        others: what the key may be besides.

    Raises:
        UserError: there is no such function; when called, it takes other arguments.
    """
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    module, _, attribute = name.rpartition(".")
    try:
        function = getattr(importlib.import_module(module), attribute)
        if not callable(function):
            raise TypeError(f"{attribute} is a {type(function).__name__}, no function")
    except (ImportError, AttributeError, ValueError, TypeError, SyntaxError) as error:
        raise UserError(
            f"{key}={name}: {error}; it is {', '.join(others)}, or a function's dotted name, as in "
            f"{key}=mine.score"
        ) from error

    def score(prompt: str, replies: list[str]) -> Any:
        try:
            return function(prompt, replies)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"{key}={name}: {error}; it is called as score(prompt, replies)"
            ) from error

    return score


def finite_scores(values: Any, num_replies: int, key: str, name: str) -> list[float]:
    """Return what a function has said of replies, as numbers.

    Raises:
        UserError: it is not a finite number for each reply.
    """
    try:
        scores = [float(value) for value in values]  # of torch or numpy, too
    except (TypeError, ValueError) as error:
        raise UserError(f"{key}={name}: it must return a number for each reply") from error
    if len(scores) != num_replies or not all(map(math.isfinite, scores)):
        raise UserError(
            f"{key}={name}: it must return a number for each of {num_replies} replies, not {scores}"
        )
    return scores
