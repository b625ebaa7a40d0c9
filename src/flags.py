"""What stands on a command line beside ``key=value``: Hydra's flags, and what looks like one.

Hydra reads its flags before or after all values, not between them: they are put first here. A key
that is written in another program's way (``--batch_size 4``, ``lr: 1e-4``) is answered with ours.
"""

import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from src.conf_text import door_text
from src.errors import UserError
from src.mistakes import ALL_KEYS, names_of
from src.nearest import CHOICES_OF_OTHERS, nearest_choice, nearest_keys
from src.overrides import PATHS, TEXTS

DASHES = "-\u2013\u2014\u2212"  # what a word processor makes of them, too
NAME = re.compile(r"[A-Za-z_][\w.\-/]*")
NUMBER = re.compile(r"-[\d.].*")
PLACEHOLDER = "..."  # for a value that a person has left out


@dataclass(frozen=True)
class Flag:
    """One of Hydra's flags; ``default`` is taken where its value is left out."""

    name: str
    short: str = ""
    takes_value: bool = False
    choices: tuple[str, ...] = ()
    default: str = ""


FLAGS = (
    Flag("--help", "-h"),
    Flag("--hydra-help"),
    Flag("--version"),
    Flag("--cfg", "-c", True, ("job", "hydra", "all")),
    Flag("--resolve"),
    Flag("--package", "-p", True),
    Flag("--run", "-r"),
    Flag("--multirun", "-m"),
    Flag("--shell-completion", "-sc"),
    Flag("--config-path", "-cp", True),
    Flag("--config-name", "-cn", True),
    Flag("--config-dir", "-cd", True),
    Flag("--experimental-rerun", "", True),
    Flag(
        "--info",
        "-i",
        True,
        ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
        "all",
    ),
)
BY_NAME = {name: flag for flag in FLAGS for name in (flag.name, flag.short) if name}


@dataclass(frozen=True)
class Line:
    """A command line in two parts: flags, each with its value, and all that is none."""

    flags: tuple[tuple[Flag, str | None], ...]
    others: tuple[str, ...]

    def has(self, name: str) -> bool:
        """Whether a flag is among them."""
        return any(flag.name == name for flag, _ in self.flags)

    @property
    def wants_help(self) -> bool:
        """Whether a person asks what the door does."""
        bare = [each for each in self.others if "=" not in each]
        return self.has("--help") or bare == ["help"]

    @property
    def shows_config(self) -> bool:
        """Whether the config is shown and no job runs."""
        return self.has("--cfg") or self.has("--info")

    def arguments(self) -> list[str]:
        """Return the command line as Hydra reads it wherever its flags stood."""
        written: list[str] = []
        for flag, value in self.flags:
            short = flag.name if flag.name != "--multirun" else "-m"
            if value is None:
                written.append(short)
            elif flag.default:
                written.append(f"{short}={value}")
            else:
                written += [short, value]
        return [*written, *self.others]


def read(arguments: Sequence[str]) -> Line:
    """Return the parts of a command line.

    Raises:
        UserError: a flag has no value, or one that it does not take.
    """
    flags: list[tuple[Flag, str | None]] = []
    others: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        name, equals, value = re.sub(r"^-c(?=job$|hydra$|all$)", "-c=", argument).partition("=")
        flag = _flag(name)
        if flag is None:
            others.append(argument)
        elif not flag.takes_value:
            if equals:
                raise UserError(f"{argument}: {flag.name} takes no value: write {flag.name}")
            flags.append((flag, None))
        else:
            if not equals:
                value = rest.pop(0) if rest and _is_value(rest[0], flag) else flag.default
            flags.append((flag, _checked(argument, flag, value)))
    return Line(tuple(flags), tuple(others))


def _flag(name: str) -> Flag | None:
    """Return the flag of a name, or of the beginning of one that is no other's."""
    if name in BY_NAME:
        return BY_NAME[name]
    if re.fullmatch(r"--[a-z-]{3,}", name) and name != "--experiment":
        begun = [flag for flag in FLAGS if flag.name.startswith(name)]
        return begun[0] if len(begun) == 1 else None
    return None


def _is_value(argument: str, flag: Flag) -> bool:
    if flag.default:  # its value may be left out
        return argument in flag.choices
    return not argument.startswith("-") and not (flag.choices and "=" in argument)


def _checked(argument: str, flag: Flag, value: str) -> str:
    if not value:
        example = flag.choices[0] if flag.choices else PLACEHOLDER
        raise UserError(f"{argument}: a value is missing, as in {flag.name} {example}")
    if flag.choices and value not in flag.choices:
        near = nearest_choice(value, flag.choices)
        hint = f"did you mean {flag.name} {near}? " if near else ""
        raise UserError(f"{flag.name} {value}: {hint}must be one of {', '.join(flag.choices)}")
    return value


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
        if not equals:
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
        is_odd = len(typed) > 1 or key != key.strip().rstrip(":") or value.startswith("=")
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
        comment = door_text(self.door).keys[key].comment if key not in self.groups else ""
        named = re.findall(r"[\w.-]*\w", comment)
        meant = [name, *CHOICES_OF_OTHERS.get(name, ())]
        return next((choice for choice in meant if choice in named), PLACEHOLDER)

    def _answer(self, typed: list[str], keys: list[str], value: str) -> None:
        key = keys[0]
        if key in self.groups and value not in self.groups[key].options:
            value = nearest_choice(value, self.groups[key].options) or value
        written = value if value == PLACEHOLDER else shlex.quote(value)
        self.typed += map(shlex.quote, typed)
        self.written.append(" or ".join(f"{key}={written}" for key in keys))
