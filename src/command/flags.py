"""Hydra's flags on a command line, such as ``--cfg job`` and ``-m``, wherever they stand.

Hydra reads them before or after all values, not between them: here they are put first.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from src.errors import UserError
from src.wording.nearest import nearest_choice

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
ALONE = {"--run", "--multirun", "--cfg", "--info", "--shell-completion"}  # Hydra does one of them
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

    def with_key(self, key: str) -> "Line":
        """Return the line with ``key=`` before a text that stands alone, or is a path.

        Raises:
            UserError: there are several, of which the door would take the last.
        """

        def is_alone(text: str) -> bool:
            return ("=" not in text and not text.startswith("~")) or os.path.lexists(text)

        alone = [text for text in self.others if is_alone(text)]
        if len(alone) > 1:
            raise UserError(f"{alone[0]} and {alone[1]}: name one {key}, not {len(alone)}")
        return Line(self.flags, tuple(f"{key}={t}" if is_alone(t) else t for t in self.others))

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
        UserError: a flag has no value, or one that it does not take; or two exclude each other.
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
    several = [name for name in dict.fromkeys(flag.name for flag, _ in flags) if name in ALONE]
    if len(several) > 1 and "--help" not in {flag.name for flag, _ in flags}:
        first, second = ("-m" if name == "--multirun" else name for name in several[:2])
        raise UserError(f"{first} and {second} exclude each other: leave out one of them")
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
