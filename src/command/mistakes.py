"""What Hydra and OmegaConf complain of, in one line for the person at the door."""

import os
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from src.command.conf_text import Key, door_text, key_names, options
from src.command.overrides import CONF
from src.wording.nearest import choice_question, nearest_choice, nearest_keys, question

HYDRA_KEYS = (
    *("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir", "hydra.job.name"),
    *("hydra.verbose", "hydra.launcher.n_jobs", "hydra.searchpath", "hydra/launcher"),
)
ALL_KEYS = "--help lists all keys"
THOUSANDS = {"k": 10**3, "m": 10**6}


def names_of(door: str) -> list[str]:
    """Return what can stand before ``=``: the door's keys, its groups and Hydra's own."""
    return [*key_names(door), *door_text(door).groups, *HYDRA_KEYS]


NOT_MERGED = "Error merging override "  # Hydra's words; its cause says why


def one_line(error: BaseException, door: str = "train") -> str:
    """Return the part of an error message that a person needs, on one line."""
    text = str(error)
    for pattern, answer in ANSWERS:
        if match := re.search(pattern, text, re.DOTALL):
            return answer(match, door)
    if text.startswith(NOT_MERGED) and error.__cause__ is not None:
        why = str(error.__cause__).partition("\n")[0]  # the rest is OmegaConf's own
        text = f"{text.removeprefix(NOT_MERGED)}: {why}"
    return " ".join(text.split())


def no_key(name: str, door: str, sign: str = "") -> str:
    """Return that a door has no such key, and which it may have been."""
    name = name.lstrip("+~")
    names = names_of(door)
    if name in names:
        return f"{name} belongs to another preset than the one that is chosen here; {ALL_KEYS}"
    hint = question(nearest_keys(name, names), lambda key: sign + key)
    return (
        f"there is no key {name}: {hint} {ALL_KEYS}"
        if hint
        else (f"there is no key {name}; {ALL_KEYS}")
    )


def no_preset(group: str, name: str, choices: Sequence[str]) -> str:
    """Return that a group has no such preset, and which it may have been."""
    return (
        f"there is no preset {group}={name}: {_preset_hint(group, name, choices)}"
        f"there are {', '.join(choices)}"
    )


def _preset_hint(group: str, name: str, choices: Sequence[str]) -> str:
    path = shlex.quote(name)
    if group == "data" and (os.path.exists(name) or Path(name).suffix):
        return f"did you mean data=file data.path={path}? "
    if group == "model" and os.path.isdir(name):
        return f"did you mean model.pretrained={path}? "
    near = nearest_choice(name, choices)
    if near is None and group == "data" and "/" in name:
        return f"a data set of the hub is data.path={path}; "
    return f"did you mean {group}={near}? " if near else ""


def stray(text: str, door: str) -> str:
    """Return what an argument without ``=`` may have been meant as."""
    names = names_of(door)
    quoted = shlex.quote(text)
    presets = [
        f"{group}={text}" for group, kind in door_text(door).groups.items() if text in kind.options
    ]
    if presets:
        hint = question(presets)
    elif os.path.exists(text):
        keys = [key for key in ("data.path", "model_path", "prompts", "show") if key in names]
        as_file = "data=file " if keys and keys[0] == "data.path" and os.path.isfile(text) else ""
        hint = question(keys[:1], lambda key: f"{as_file}{key}={quoted}")
    else:
        hint = question(nearest_keys(text, names), lambda key: f"{key}=...")
    return f"{quoted}: arguments are key=value" + (f": {hint}" if hint else f"; {ALL_KEYS}")


def _override(match: re.Match[str], door: str) -> str:
    name = match[1]
    group, at, _ = name.partition("@")
    if at and group in door_text(door).groups:
        return f"there is no {name}: did you mean {group}?"
    return no_key(name, door)


def _preset(match: re.Match[str], door: str) -> str:
    groups = [*door_text(door).groups, match[2]]
    whole = match[1]
    group = next(g for g in groups if whole.startswith(g.partition("@")[0] + "/"))
    group = group.partition("@")[0]
    known = match[3].split()
    choices = sorted(name for name in known if name in options(group) or not options(group))
    return no_preset(group, whole.removeprefix(f"{group}/"), choices)


def _grammar(match: re.Match[str], door: str) -> str:
    override, problem = match[1], match[2].strip()
    if "missing EQUAL" in problem:
        return stray(override, door)
    return f"{override}: cannot be read as key=value ({' '.join(problem.split())})"


def _unreadable(match: re.Match[str], door: str) -> str:
    if "=" not in match[1]:
        return stray(match[1], door)
    return f"{match[1]}: cannot be read as key=value: put quotes around the value"


def _no_config(match: re.Match[str], door: str) -> str:
    hint = choice_question(match[1], [path.stem for path in CONF.glob("*.yaml")])
    return f"there is no config {match[1]} in the search path{hint}"


def _several(match: re.Match[str], door: str) -> str:
    key, _, values = match[1].partition("=")
    if key.lstrip("+") not in names_of(door):
        return no_key(key, door)
    if number := _as_meant(values, None):
        return f"{match[1]}: {number} Several values are several runs: -m"
    return (
        f"{match[1]}: several values are several runs: add -m; one value that is a list is written "
        f"{key}=[{values}]"
    )


def _of_wrong_type(match: re.Match[str], door: str) -> str:
    value, key = match[1], match[3]
    hint = _as_meant(value, door_text(door).keys.get(key))
    return f"{key}: {match[0].splitlines()[0]}" + (f": {hint}" if hint else "")


def _as_meant(value: str, key: Key | None) -> str:
    """Return how a value that has the wrong type is written right; empty: nobody knows."""
    plain = value.strip().casefold()
    if plain in ("none", "nil", "no", "off", "") and key is not None and key.value == "null":
        return "did you mean null?"
    if number := re.fullmatch(r"(\d+(?:\.\d+)?)([km])", plain):
        return f"did you mean {float(number[1]) * THOUSANDS[number[2]]:.0f}?"
    if re.fullmatch(r"\d+(,\d{3})+", plain):
        return f"did you mean {plain.replace(',', '')}?"
    if re.fullmatch(r"\d+\.0", plain):
        return f"did you mean {plain.removesuffix('.0')}?"
    return ""


def _no_bool(match: re.Match[str], door: str) -> str:
    near = nearest_choice(match[1], ("true", "false"))
    return f"{match[2]}={match[1]}: must be true or false" + (
        f": did you mean {match[2]}={near}?" if near else ""
    )


def _no_list(match: re.Match[str], door: str) -> str:
    return f"{match[1]}: must be a list, as in {match[1]}=[a,b]"


def _section(match: re.Match[str], door: str) -> str:
    section, value = match[2], match[1].strip()
    inside = [key for key in key_names(door) if key.startswith(f"{section}.")]
    return (
        f"{section}={value}: {section} is a section of keys, such as {inside[0]}; {ALL_KEYS}"
        if inside
        else no_key(section, door)
    )


def _of_environment(match: re.Match[str], door: str) -> str:
    return (
        f"{match[2]}: the environment has no variable {match[1]}: set it, or give a value for "
        f"where it is not set: ${{oc.env:{match[1]},value}}"
    )


def _interpolation(match: re.Match[str], door: str) -> str:
    hint = question(nearest_keys(match[1], key_names(door)), lambda key: f"${{{key}}}")
    return f"{match[2]}: ${{{match[1]}}} names no key" + (f": {hint}" if hint else "")


def _resolver(match: re.Match[str], door: str) -> str:
    hint = ": did you mean oc.env?" if "e" in match[1] and "v" in match[1] else ""
    return f"{match[2]}: there is no ${{{match[1]}:...}}{hint}"


KEY = r"\s+full_key: (\S+)"
Answer = Callable[[re.Match[str], str], str]

# The first pattern that an error's text matches says how it is told.
ANSWERS: tuple[tuple[str, Answer], ...] = (
    (r"Could not override '([^']+)'", _override),
    (
        r"Could not delete from config\. '([^']+)' does not exist",
        lambda match, door: no_key(match[1], door, "~"),
    ),
    (
        r"An item is already at '([^']+)'",
        lambda match, door: (
            f"+{match[1]}: this key exists already: write {match[1]}=..., without the +"
        ),
    ),
    (
        r"Multiple values for ([^.\s]+)\. To override a value use 'override [^:]+: ([^']+)'",
        lambda match, door: f"+{match[1]}={match[2]}: write {match[1]}={match[2]}, without the +",
    ),
    (
        r"Could not find '([^']+)'\s+Available options in '([^']+)':(.*?)(?:Config |\Z)",
        _preset,
    ),
    (r"Ambiguous value for argument '(.+?)'\n", _several),
    (r"Cannot find primary config '([^']+)'", _no_config),
    (r"Error parsing override '(.*?)'\n(.*?)(?:See https|\Z)", _grammar),
    (r"LexerNoViableAltException: (.*?)\n", _unreadable),
    (
        r"Key '[^']+' not in '[^']+'" + KEY,
        lambda match, door: no_key(match[1], door),
    ),
    (r"Value '(.*?)' is not a valid bool.*?" + KEY, _no_bool),
    (r"Value '(.*?)' of type '(\w+)' could not be converted to \w+" + KEY, _of_wrong_type),
    (r"AnyNode is not a ListConfig, list or tuple\." + KEY, _no_list),
    (r"is not a subclass of \w+\. value: (.*?)\n" + KEY, _section),
    (
        r"has missing mandatory value: \S+" + KEY,
        lambda match, door: f"{match[1]}: it has no value: give it one, {match[1]}=...",
    ),
    (r"Environment variable '([^']+)' not found\"?" + KEY, _of_environment),
    (r"Interpolation key '([^']+)' not found" + KEY, _interpolation),
    (r"Unsupported interpolation type (\S+)" + KEY, _resolver),
    (r"(?s)\A([^\n]*).*?" + KEY, lambda match, door: f"{match[2]}: {match[1]}"),
)
