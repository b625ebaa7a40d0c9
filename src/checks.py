"""The range of a setting stands beside it: ``seed: Annotated[int, within("[0, 2^32)")]``.

A dataclass of settings calls ``check(self)`` in its ``__post_init__``. Whether a setting may be
null is a matter of its type, which OmegaConf checks; a rule never sees null.
"""

import inspect
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from src.errors import UserError
from src.wording.nearest import choice_question

AUTO = "auto"
SMALLEST, LARGEST = 1e-30, 1e30  # of a float that float32 can compute with


@dataclass(frozen=True)
class Rule:
    """Which values a setting may have: ``holds`` decides, ``text`` tells a person."""

    text: str
    holds: Callable[[Any], bool]
    exception: str = ""  # the end of the message: ", or null for all"
    choices: tuple[str, ...] = ()  # if it is one of these: the nearest is named

    def or_null(self, meaning: str = "") -> "Rule":
        """Return this rule for a setting that may be null, and what null means."""
        return replace(self, exception=f", or null {meaning}".rstrip())

    def or_auto(self) -> "Rule":
        """Return this rule for a number that may also be ``auto``."""

        def holds(value: Any) -> bool:
            return value == AUTO or (not isinstance(value, str) and self.holds(value))

        return replace(self, holds=holds, exception=f", or {AUTO}")

    def check(self, key: str, value: Any) -> None:
        """Check a value, which must also be finite, and of a size that float32 can compute with.

        Raises:
            UserError: names key, value and rule.
        """
        finite = not isinstance(value, float) or math.isfinite(value)
        if not finite or not self.holds(value):
            text = self.text if finite else f"{self.text}, and finite"
            hint = choice_question(value, self.choices)
            raise UserError(f"{key}={value}: {text}{self.exception}{hint}")
        if isinstance(value, float) and value and not SMALLEST <= abs(value) <= LARGEST:
            text = f"{self.text}, and of a size between {SMALLEST:g} and {LARGEST:g}"
            raise UserError(f"{key}={value}: {text}{self.exception}")


NUMBER = Rule("must be a number", lambda _: True)  # OmegaConf has checked the type


def at_least(least: float) -> Rule:
    """Return the rule of numbers from ``least`` on."""
    text = f"must be at least {least}" if least else "must be 0 or more"
    return Rule(text, lambda value: value >= least)


def above(limit: float, unit: str = "") -> Rule:
    """Return the rule of numbers above ``limit``."""
    return Rule(f"must be above {limit} {unit}".rstrip(), lambda value: value > limit)


def within(interval: str) -> Rule:
    """Return the rule of an interval: ``[0, 1)`` holds 0 and not 1; ``2^32`` is a power."""
    low, high = (_number(end) for end in interval[1:-1].split(", "))
    from_low = operator.ge if interval[0] == "[" else operator.gt
    to_high = operator.le if interval[-1] == "]" else operator.lt
    return Rule(
        f"must be in {interval}", lambda value: from_low(value, low) and to_high(value, high)
    )


def one_of(names: Sequence[str]) -> Rule:
    """Return the rule of a choice."""
    text = f"must be one of {', '.join(names)}"
    return Rule(text, lambda value: value in names, choices=tuple(names))


def check(settings: Any, prefix: str = "") -> None:
    """Check every field of a dataclass that is not null against the rule beside it.

    Raises:
        UserError: names the key, with ``prefix`` before it, its value and the rule.
    """
    rules = _rules(type(settings))
    for field in fields(settings):
        value = getattr(settings, field.name)
        if value is not None:
            rules.get(field.name, NUMBER).check(prefix + field.name, value)


def _rules(settings: type) -> dict[str, Rule]:
    """Return each field's rule; a field that a subclass types anew keeps its rule."""
    return {
        name: rule
        for owner in reversed(settings.__mro__)
        for name, hint in inspect.get_annotations(owner).items()
        for rule in getattr(hint, "__metadata__", ())
        if isinstance(rule, Rule)
    }


def _number(text: str) -> float:
    if text.startswith("-"):
        return -_number(text[1:])
    base, _, exponent = text.partition("^")
    return float(base) ** int(exponent or 1)
