"""What ``conf/`` says of a door: a sentence, examples, its groups and its keys with their comments.

The YAML files own that text; nothing of it stands anywhere else. PyYAML finds keys and values, and
the comments are read from the lines where it found them:

    # What the door does.                       <- the head of conf/<door>.yaml
    #   python -m src.door key=value   # what that does
    defaults:
      - group: option    # what the group chooses
    # What the keys below share.
    key: value           # what the key means
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import yaml

from src.command.overrides import CONF

EXAMPLE = re.compile(r"#\s+((?:\S+=\S+ )*python -m .*?|echo .*?)(?:\s+#\s+(.*))?")
COMMENT = re.compile(r"\s*#\s?(.*)")
NOT_OURS = ("defaults", "hydra")  # at the top of a file: Hydra's own
BASE = "base"  # of a group: what its options share, never chosen alone


@dataclass(frozen=True)
class Key:
    """A key as a person types it.

    Attributes:
        name: with dots, such as ``optimizer.learning_rate``.
        value: as it is written in YAML.
        comment: behind the value; empty: there is none.
        notes: comments that stand above it.
    """

    name: str
    value: str
    comment: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Group:
    """A choice among presets: the options, and the one that is taken; None: none is."""

    name: str
    options: tuple[str, ...]
    default: str | None
    comment: str


@dataclass
class DoorText:
    """What is said of one door; ``examples`` are commands and what they do."""

    sentences: list[str] = field(default_factory=list)
    examples: list[tuple[str, str]] = field(default_factory=list)
    groups: dict[str, Group] = field(default_factory=dict)
    keys: dict[str, Key] = field(default_factory=dict)


@cache
def door_text(door: str, conf: Path = CONF) -> DoorText:
    """Return what ``conf/<door>.yaml`` and the presets it takes say; its own keys come first."""
    path = conf / f"{door}.yaml"
    text = DoorText()
    text.sentences, text.examples = _head(path)
    _add(text, path, "", {}, conf)
    names = [key.name for key in _keys(_File.read(path), "")]
    text.keys = {name: text.keys[name] for name in dict.fromkeys([*names, *text.keys])}
    return text


def options(group: str, conf: Path = CONF) -> tuple[str, ...]:
    """Return the presets of a group that can be chosen."""
    names = sorted(path.stem for path in (conf / group).glob("*.yaml"))
    return tuple(name for name in names if name != BASE)


@cache
def key_names(door: str, conf: Path = CONF) -> tuple[str, ...]:
    """Return the keys that a door can have, whatever is chosen in its groups."""
    found = dict(door_text(door, conf).keys)
    for group, kind in door_text(door, conf).groups.items():
        folder, _, package = group.partition("@")
        for option in kind.options:
            preset = DoorText()
            _add(preset, conf / folder / f"{option}.yaml", package or folder, {}, conf)
            found = preset.keys | found
    return tuple(dict.fromkeys([*door_text(door, conf).keys, *found]))


@dataclass(frozen=True)
class _File:
    """A YAML file: its text's lines, its tree of nodes, and where Hydra puts it."""

    lines: list[str]
    root: yaml.MappingNode
    is_global: bool

    @classmethod
    @cache
    def read(cls, path: Path) -> "_File":
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        assert root is None or isinstance(root, yaml.MappingNode), path
        empty = yaml.MappingNode("tag:yaml.org,2002:map", [])
        return cls(text.splitlines(), root or empty, "@package _global_" in text)

    def source(self, node: yaml.Node) -> str:
        """Return what is written for a node, on one line."""
        start, end = node.start_mark, node.end_mark
        if start.line == end.line:
            return self.lines[start.line][start.column : end.column].strip()
        body = [line.split("#")[0].strip() for line in self.lines[start.line : end.line]]
        entries = [line.removeprefix("- ") for line in body if line]
        return f"[{', '.join(entries)}]"

    def comment(self, line: int, column: int) -> str:
        """Return the comment behind a place of a line, and what goes on below it."""
        match = COMMENT.fullmatch(self.lines[line][column:])
        if match is None:
            return ""
        words, start = [match[1]], self.lines[line].index("#", column)
        for below in self.lines[line + 1 :]:
            if below.find("#") != start or below[:start].strip():
                break
            words.append(below[start + 1 :].strip())
        return " ".join(words).strip()

    def notes(self, line: int, column: int) -> tuple[str, ...]:
        """Return the comment lines right above a line, as far as they begin in its column."""
        found: list[str] = []
        while line > 0 and self.lines[line - 1].startswith(" " * column + "#"):
            line -= 1
            found.insert(0, self.lines[line].strip().lstrip("#").strip())
        return () if line == 0 or not found else (" ".join(found),)


def _head(path: Path) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the sentences and the examples at the beginning of a file."""
    sentences, examples = [], []
    for line in _File.read(path).lines:
        if not line.startswith("#"):
            break
        if match := EXAMPLE.fullmatch(line):
            examples.append((match[1], match[2] or ""))
        elif "@package" not in line:
            sentences.append(line.lstrip("#").strip())
    return sentences, examples


def _add(text: DoorText, path: Path, package: str, choices: dict[str, str], conf: Path) -> None:
    """Add the keys of a file and of the presets in its defaults, in Hydra's order."""
    file = _File.read(path)
    package = "" if file.is_global else package
    entries = list(_defaults(file))
    choices = choices | {
        name.removeprefix("override "): value
        for name, value, _ in entries
        if name.startswith("override ") and value is not None
    }
    if not any(name == "_self_" for name, *_ in entries):
        entries.append(("_self_", None, ""))
    for name, value, comment in entries:
        if name == "_self_":
            _merge(text, _keys(file, package))
        elif name.startswith("override "):
            continue
        elif value is None and not (conf / name).is_dir():
            _add(text, path.parent / f"{name}.yaml", package, choices, conf)
        else:
            group, _, place = name.partition("@")
            taken = choices.get(name, value)
            text.groups[name] = Group(name, options(group, conf), taken, comment)
            if taken is not None:
                _add(text, conf / group / f"{taken}.yaml", place or group, choices, conf)


def _defaults(file: _File) -> Iterator[tuple[str, str | None, str]]:
    """Yield the entries of the defaults list: name, option and comment."""
    for key, value in file.root.value:
        if key.value != "defaults":
            continue
        for entry in value.value:
            if isinstance(entry, yaml.ScalarNode):
                yield entry.value, None, ""
                continue
            ((name, option),) = entry.value
            taken = None if option.tag.endswith(":null") else option.value
            yield name.value, taken, file.comment(option.end_mark.line, option.end_mark.column)


def _merge(text: DoorText, keys: Iterator[Key]) -> None:
    """Put keys over those that are there; what a key means stays where nothing else is said."""
    for key in keys:
        before = text.keys.get(key.name)
        if before is not None and not key.comment:
            key = replace(key, comment=before.comment, notes=key.notes or before.notes)
        text.keys[key.name] = key


def _keys(file: _File, package: str) -> Iterator[Key]:
    for key, value in file.root.value:
        if key.value not in NOT_OURS:
            yield from _keys_of(file, key, value, package)


def _keys_of(file: _File, key: yaml.Node, value: yaml.Node, package: str) -> Iterator[Key]:
    name = f"{package}.{key.value}" if package else str(key.value)
    notes = file.notes(key.start_mark.line, key.start_mark.column)
    if not isinstance(value, yaml.MappingNode) or not value.value:
        # The end of a list in lines is the beginning of what follows it.
        end = value.end_mark if value.start_mark.line == value.end_mark.line else key.end_mark
        comment = file.comment(end.line, end.column + (end is key.end_mark))
        yield Key(name, file.source(value), comment, notes)
        return
    end = value.end_mark if value.flow_style else key.end_mark
    shared = file.comment(end.line, end.column + (end is key.end_mark))
    if shared:
        notes = (*notes, f"{name}: {shared}")
    for child, grandchild in value.value:
        for found in _keys_of(file, child, grandchild, name):
            yield replace(found, notes=(*notes, *found.notes))
            notes = ()
