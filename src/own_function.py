"""A person's own Python function, which a key names: ``mine.score`` of a ``mine.py``.

Whoever names a function has it called. A config and a run folder may be a stranger's, so the name
stands on the command line, each time.
"""

import importlib
import math
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from src.errors import UserError

REWARD = "objective.reward"  # the setting of a run that may name one
OURS = (__file__, importlib.__file__)
Score = Callable[[str, list[str]], Any]  # a prompt and replies to a number for each reply


def is_own(name: object) -> bool:
    """Whether a value names a person's function, and not one of ours."""
    return isinstance(name, str) and "." in name


def is_typed(key: str, overrides: Sequence[str]) -> bool:
    """Whether ``key`` stands among the overrides of the command line."""
    return any(override.lstrip("+").startswith(f"{key}=") for override in overrides)


def check_typed(key: str, name: str, overrides: Sequence[str]) -> None:
    """Check that ``key`` stands among the overrides of the command line.

    Raises:
        UserError: another config names the function.
    """
    if not is_typed(key, overrides):
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
        UserError: there is no such function; when called, it takes other arguments, or fails.
    """
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    module, _, attribute = name.rpartition(".")
    choices = f"it is {', '.join(others)}, or a function's dotted name, as in {key}=mine.score"
    with _failing(key, name, choices):
        function = getattr(importlib.import_module(module), attribute)
        if not callable(function):
            raise TypeError(f"{attribute} is a {type(function).__name__}, no function")

    def score(prompt: str, replies: list[str]) -> Any:
        with _failing(key, name, "it is called as score(prompt, replies)"):
            values = function(prompt, replies)
            return list(values) if isinstance(values, Iterator) else values

    return score


@contextmanager
def _failing(key: str, name: str, hint: str) -> Iterator[None]:
    """Let whatever a person's code raises be one line that says where.

    Raises:
        UserError: it has raised something, or has ended the program.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        if isinstance(error, SystemExit) and type(error) is not SystemExit:
            raise  # a signal has come meanwhile
        raise UserError(f"{key}={name}: {_what_failed(error)}; {hint}") from error


def _what_failed(error: BaseException) -> str:
    """Return an error in a line: its type, what it says, and where a person's code raised it."""
    text = str(error).strip().partition("\n")[0]
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename not in OURS and not frame.filename.startswith("<frozen importlib")
    ]
    if not frames:
        return text or type(error).__name__
    place = f"{frames[-1].filename}, line {frames[-1].lineno}"
    return f"{type(error).__name__}{': ' * bool(text)}{text} ({place})"


def finite_scores(values: Any, num_replies: int, key: str, name: str) -> list[float]:
    """Return what a function has said of replies, as numbers.

    Raises:
        UserError: it is not a finite number for each reply.
    """
    try:
        scores = [float(value) for value in values]  # of torch or numpy, too
    except Exception as error:  # torch and numpy have their own
        raise UserError(f"{key}={name}: it must return a number for each reply") from error
    if len(scores) != num_replies or not all(map(math.isfinite, scores)):
        raise UserError(
            f"{key}={name}: it must return a number for each of {num_replies} replies, not {scores}"
        )
    return scores
