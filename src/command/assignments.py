"""``--batch_size 4`` and ``lr: 1e-4``, as other programs have it, are answered with our way."""

import os
import re
import shlex
from collections.abc import Sequence

from src.command.conf_text import door_text
from src.command.flags import PLACEHOLDER, Line
from src.command.mistakes import ALL_KEYS, names_of
from src.command.overrides import PATHS, TEXTS
from src.errors import UserError
from src.wording.nearest import CHOICES_OF_OTHERS, nearest_choice, nearest_keys

DASHES = "-\u2013\u2014\u2212"  # what a word processor makes of them, too
NAME = re.compile(r"[A-Za-z_][\w.\-/]*")
NUMBER = re.compile(r"-[\d.].*")


def check(line: Line, door: str, free_text: Sequence[str] = ()) -> None:
    """Check that every argument is ``key=value``, as far as one can tell what else it is.

    A lone text without ``=`` passes: the door may know what it means, and Hydra refuses it.

    Args:
        line: what was typed.
        door: whose keys count.
        free_text: keys whose values are any text.

    Raises:
        UserError: says how it is written.
    """
    reader = _Reader(door, free_text)
    package = next((value for flag, value in line.flags if flag.name == "--package"), None)
    if package is not None and not line.shows_config:
        hint = f"did you mean port={package}? " if package.isdigit() else ""
        raise UserError(f"-p {package}: {hint}-p, --package, goes with --cfg")
    rest = list(line.others)
    while rest:
        reader.take(rest)
    if reader.typed:
        raise UserError(f"{' '.join(reader.typed)}: write {' '.join(reader.written)}")


class _Reader:
    """Collects what was typed in another way, and how it is written."""

    def __init__(self, door: str, free_text: Sequence[str]):
        self.door, self.names = door, names_of(door)
        self.groups = door_text(door).groups
        self.any_text = {*free_text, *PATHS, *TEXTS}
        self.typed: list[str] = []
        self.written: list[str] = []

    def take(self, rest: list[str]) -> None:
        """Read the first of the arguments, with those that belong to it, and remove them."""
        argument = rest.pop(0)
        if argument[:1] in tuple(DASHES) and not NUMBER.fullmatch(argument):
            self._take_dashed(argument, rest)
        elif "=" in argument:
            self._take_assignment(argument, rest)
        elif argument[:1] != "~":
            self._take_bare(argument, rest)

    def _take_dashed(self, argument: str, rest: list[str]) -> None:
        name, equals, value = argument.lstrip(DASHES).partition("=")
        typed = [argument]
        if not name:
            raise UserError(f"{argument}: arguments are key=value, and {ALL_KEYS}")
        if not equals and (match := re.fullmatch(r"([\w.\-/]+):(.+)", name)):
            name, equals, value = match[1], ":", match[2]
        if not equals and rest and rest[0] == "=":
            typed.append(rest.pop(0))
        if not equals and rest and self._is_value(rest[0]):
            typed.append(rest.pop(0))
            equals, value = "=", typed[-1]
        keys = self.keys(name)
        if (match := re.fullmatch(r"no[-_]?(.+)", name)) and not equals:
            switches = [key for key in self.keys(match[1]) if self._is_switch(key)]
            if switches:
                keys, equals, value = switches, "=", "false"
        if not keys:
            raise UserError(
                f"{' '.join(map(shlex.quote, typed))}: there is no flag and no key {name}; "
                f"arguments are key=value, and {ALL_KEYS}"
            )
        if not value:
            value = self._left_out(name, keys[0])
        self._answer(typed, keys, value)

    def _take_assignment(self, argument: str, rest: list[str]) -> None:
        key, _, value = argument.partition("=")
        name = key.strip().rstrip(":").lstrip("+~")
        if not name:
            raise UserError(f"{argument}: there is no key before the =; arguments are key=value")
        typed = [argument]
        if not value and rest and self._is_value(rest[0]) and "=" not in rest[0]:
            typed.append(rest.pop(0))
            value = typed[-1]
        elif key in self.any_text:
            return
        meant = value.strip().removeprefix("=").strip().rstrip(",")
        is_odd = len(typed) > 1 or re.search(r"\s|:$", key) or value.startswith("=")
        if (is_odd or value.endswith(",")) and (keys := self.keys(name)):
            self._answer(typed, keys, meant)

    def _take_bare(self, argument: str, rest: list[str]) -> None:
        if os.path.lexists(argument):
            return
        key, colon, value = argument.partition(":")
        if colon and NAME.fullmatch(key) and not value.startswith("//"):
            typed = [argument]
            if not value and rest and self._is_value(rest[0]):
                typed.append(rest.pop(0))
                value = typed[-1]
            if keys := self.keys(key):
                self._answer(typed, keys, value or PLACEHOLDER)
            return
        if not rest or not NAME.fullmatch(argument) or not (keys := self.keys(argument)):
            return
        following = rest[0]
        if following in ("=", ":") and len(rest) > 1:
            self._answer([argument, rest.pop(0), following := rest.pop(0)], keys, following)
        elif following.startswith("=") and len(following) > 1:
            self._answer([argument, rest.pop(0)], keys, following[1:])
        elif self._is_value(following) and "=" not in following and len(self._bare(rest)) % 2:
            self._answer([argument, rest.pop(0)], keys, following)

    def _bare(self, rest: list[str]) -> list[str]:
        """Return the arguments up to the next that is no lone word."""
        for number, argument in enumerate(rest):
            if "=" in argument:
                return rest[:number]
        return rest

    def keys(self, name: str) -> list[str]:
        """Return the keys that a name may mean."""
        return [name] if name in self.names else nearest_keys(name, self.names)

    def _is_value(self, argument: str) -> bool:
        key, equals, _ = argument.partition("=")
        is_assignment = equals and (key.lstrip("+~") in self.names or self.keys(key) != [])
        is_flag = argument[:1] in tuple(DASHES) and not NUMBER.fullmatch(argument)
        return not is_assignment and not is_flag

    def _is_switch(self, key: str) -> bool:
        known = door_text(self.door).keys.get(key)
        return known is not None and known.value in ("true", "false")

    def _left_out(self, name: str, key: str) -> str:
        """Return the value of a flag that has none: it is a switch, or its name is the value."""
        if self._is_switch(key):
            return "true"
        known = door_text(self.door).keys.get(key)
        named = re.findall(r"[\w.-]*\w", known.comment) if known else []
        meant = [name, *CHOICES_OF_OTHERS.get(name, ())]
        return next((choice for choice in meant if choice in named), PLACEHOLDER)

    def _answer(self, typed: list[str], keys: list[str], value: str) -> None:
        key = keys[0]
        if key in self.groups and value not in self.groups[key].options:
            value = nearest_choice(value, self.groups[key].options) or value
        written = value if value == PLACEHOLDER else shlex.quote(value)
        self.typed += map(shlex.quote, typed)
        self.written.append(" or ".join(f"{key}={written}" for key in keys))
