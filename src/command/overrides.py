"""What a person types after a key becomes what Hydra's grammar reads as the same.

A path or a text has any characters: commas, quotes, brackets, ``=``, ``#``, other alphabets.
Hydra's grammar refuses some of them and gives others a meaning of their own. So values are put
into quotes here, before Hydra reads them:

    of a path or a text   unless it is null, in quotes already, a list where the key takes one, an
                          interpolation of something that exists, or several values of a sweep; a
                          file or folder of exactly that name always wins
    of any other key      where the grammar would refuse it: then the key's type says what is wrong
"""

import os
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString, ValueType
from hydra.errors import HydraException
from omegaconf import OmegaConf

from src.errors import UserError
from src.wording.command_line import grammatical, quoted

CONF = Path(__file__).parents[2] / "conf"

PATHS = {
    *("model_path", "compare_with", "checkpoint", "output", "show", "resume", "folder"),
    "continue_from",
    *("data.path", "data.corpus_dir", "data.validation_split", "data.test_split"),
    *("model.pretrained", "model.tokenizer", "tiny.pretrained", "tiny.tokenizer"),
    *("hydra.run.dir", "hydra.sweep.dir"),
}
TEXTS = {"data.name", "data.train_split", "model_name", "api_key", "prompt", "system", "name"}
TEXTS_UNDER = ("data.columns.",)  # names of columns

OVERRIDE = re.compile(r"(\+{0,2}[\w$@/.:-]+)=(.*)", re.DOTALL)
TAKES_A_VALUE = re.compile(r"(-cp|-cn|-cd|-p|--(config-(path|name|dir)|package))")
MULTIRUN = {"-m", "--multirun", "hydra.mode=MULTIRUN"}
HYDRAS_RESOLVERS = {"hydra", "now", "python_version"}  # Hydra registers them when it starts
INTERPOLATION = re.compile(r"\$\{\s*([^}:.\[\s]+)([^}:]*)(:?)")
ESCAPE = re.compile(r"\\[()\[\]{}:=, \t]")  # of the grammar, but for the backslash's own
CLOSING = {"(": ")", "[": "]", "{": "}"}


def of_its_objective(arguments: list[str]) -> list[str]:
    """Return a command line that goes on, whose keys of an objective are those of the run.

    Which one that is, its record says; what is composed may have other keys.
    """
    keys = {argument.partition("=")[0] for argument in arguments}
    if "resume" not in keys or "objective" in keys:
        return arguments
    return [f"++{each}" if each.startswith("objective.") else each for each in arguments]


def readable(arguments: list[str]) -> list[str]:
    """Return a command line that Hydra reads as ``arguments`` are meant.

    What Hydra's grammar reads already stays as it is, so the function may be applied twice.

    Raises:
        UserError: a run folder cannot have the name that ``hydra.run.dir`` gives it.
    """
    multirun = bool(MULTIRUN & set(arguments)) or any(a.startswith("sweep=") for a in arguments)
    previous = ["", *arguments]
    return [
        argument if TAKES_A_VALUE.fullmatch(before) else _readable(argument, multirun)
        for before, argument in zip(previous, arguments, strict=False)
    ]


def _readable(argument: str, multirun: bool) -> str:
    match = OVERRIDE.fullmatch(argument)
    if match is None:
        return argument
    key, value = match[1].lstrip("+"), match[2]
    if key in PATHS:
        value = _text(value, multirun, _path)
    elif key in TEXTS or key.startswith(TEXTS_UNDER):
        value = _text(value, multirun, grammatical)
    elif not _is_valid(value):
        value = _structure(value, multirun, lambda leaf: leaf if _is_valid(leaf) else quoted(leaf))
    if key in ("hydra.run.dir", "hydra.sweep.dir") and r"\${" in value:
        raise UserError(f"{argument}: Hydra gives no folder a name with ${{ in it: choose another")
    return f"{match[1]}={value}"


def _text(value: str, multirun: bool, to_grammar: Callable[[str], str]) -> str:
    """Return the value of a key that takes a text, and whatever Hydra can compute one from."""
    is_path = to_grammar is _path
    if is_path and _exists(value):
        return _path(value)
    parsed = _parsed(value)
    if parsed is not None and (
        value == ""
        or value.lower() == "null"
        or (multirun and _is_function(parsed))
        or _is_quoted(parsed)
        or ESCAPE.search(value)
        or _interpolates(value)
    ):
        return value

    def leaf(text: str) -> str:
        return _text(text, False, to_grammar)

    is_list = is_path and value.startswith("[") and value.endswith("]")
    return _structure(value, multirun, leaf) if is_list or multirun else to_grammar(value)


def _path(value: str) -> str:
    """Return a path for Hydra's grammar; ``~`` is a home, unless a file has that name."""
    if value.startswith("~"):
        value = os.path.join(".", value) if _exists(value) else os.path.expanduser(value)
    return grammatical(value)


def _structure(value: str, several: bool, leaf: Callable[[str], str]) -> str:
    """Return a list, an object, or (``several``) values of a sweep, with ``leaf`` of each text."""
    if several and len(parts := list(_split(value))) > 1:
        return ",".join(_structure(part, False, leaf) for part in parts)
    inner = value.strip()
    if inner.startswith("[") and inner.endswith("]"):
        parts = list(_split(inner[1:-1]))
        return f"[{','.join(_structure(part, False, leaf) for part in parts)}]"
    if inner.startswith("{") and inner.endswith("}"):
        pairs = (part.partition(":") for part in _split(inner[1:-1]))
        return (
            "{" + ",".join(f"{k}: {_structure(_part(v), False, leaf)}" for k, _, v in pairs) + "}"
        )
    return leaf(value)


def _split(text: str) -> Iterator[str]:
    """Yield the parts between commas, but for those in quotes, brackets or names of files.

    Blanks around a part are none of it, unless a file's name has them.
    """
    start = position = 0
    while position < len(text):
        char = text[position]
        is_first = not text[start:position].strip()
        if char in "'\"" and is_first:
            match = re.compile(rf"{char}(?:\\.|[^\\{char}])*{char}\s*(?=,|$)", re.DOTALL).match(
                text, position
            )
            position = match.end() if match else position + 1
        elif char in CLOSING:
            position = _end_of_bracket(text, position) or position + 1
        elif char == ",":
            if _exists_with_comma(text, start, position):
                position += 1
                continue
            yield _part(text[start:position])
            start = position = position + 1
        else:
            position += 1
    if text:
        yield _part(text[start:])


def _part(text: str) -> str:
    return text if _exists(text) else text.strip()


def _exists_with_comma(text: str, start: int, comma: int) -> bool:
    """Whether a file's name goes on after this comma; the part before it is none."""
    if _exists(text[start:comma].strip()):
        return False
    ends = [m.start() for m in re.finditer(r",|$", text[comma + 1 :])]
    return any(_exists(text[start : comma + 1 + end].strip()) for end in ends)


def _end_of_bracket(text: str, start: int) -> int | None:
    """Return where the bracket at ``start`` has been closed; None if it never is."""
    depth = 0
    for position in range(start, len(text)):
        depth += (text[position] == text[start]) - (text[position] == CLOSING[text[start]])
        if depth == 0:
            return position + 1
    return None


def _exists(name: str) -> bool:
    try:
        return bool(name) and os.path.lexists(name)
    except ValueError:  # a NUL in it
        return False


def _is_valid(value: str) -> bool:
    return _parsed(value) is not None


def _parsed(value: str) -> Override | None:
    """Return what Hydra's grammar reads; None where it refuses."""
    try:
        return _parser().parse_override(f"key={value}")
    except (HydraException, ValueError):
        return None


def _is_function(parsed: Override) -> bool:
    """Whether it makes the values of a sweep, as ``choice(a, b)`` does."""
    return parsed.value_type not in (ValueType.ELEMENT, ValueType.SIMPLE_CHOICE_SWEEP)


def _is_quoted(parsed: Override) -> bool:
    # ``Override.value()`` is the same without the quotes.
    return isinstance(parsed._value, QuotedString)


@lru_cache
def _parser() -> OverridesParser:
    return OverridesParser.create()


def _interpolates(value: str) -> bool:
    """Whether every ``${...}`` names a key of ours or a resolver."""
    found = INTERPOLATION.findall(value)
    return bool(found) and all(
        _is_resolver(name + rest) if colon else name in _config_keys()
        for name, rest, colon in found
    )


def _is_resolver(name: str) -> bool:
    return name in HYDRAS_RESOLVERS or OmegaConf.has_resolver(name)


@lru_cache
def _config_keys() -> set[str]:
    keys = {path.stem for path in CONF.iterdir()} | {"hydra"}
    for path in CONF.glob("*.yaml"):
        keys |= {str(key) for key in OmegaConf.load(path)}
    return keys
