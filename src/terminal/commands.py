"""A line of a conversation is a question, or a command that begins with a slash."""

import difflib
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from types import NoneType
from typing import Any, get_args, get_type_hints

from src.errors import UserError
from src.model.generation_config import GenerationConfig
from src.talk.assistant import Reply
from src.terminal.session import ROWS, Session
from src.wording.command_line import option


class Leave(Exception):
    """The person ends the conversation."""


def respond(session: Session, line: str) -> Reply | str:
    """Return the reply to a question, or the answer of a command.

    Raises:
        UserError: the command or the question cannot be used.
        Leave: on ``/quit``.
    """
    if not line.startswith("/"):
        return session.ask(line.strip())
    name, argument = (*line.split(maxsplit=1), "")[:2]
    command = COMMANDS.get(name)
    if command is None:
        raise UserError(
            f"there is no command {name}; {_suggest(name, COMMANDS)} (a question that begins with "
            f"a slash: a space before it)"
        )
    if argument and not command.argument:
        raise UserError(f"{name} takes nothing after it")
    return command.run(session, argument.strip())


def change_settings(generation: GenerationConfig, assignments: str) -> GenerationConfig:
    """Return ``generation`` with ``assignments``, such as ``temperature=0.7 seed=3``.

    Raises:
        UserError: names the key or value that cannot be used.
    """
    kinds = get_type_hints(GenerationConfig)
    values: dict[str, Any] = {}
    for assignment in re.split(r"\s+(?=\w+=)", assignments):
        key, equals, text = assignment.partition("=")
        if key not in kinds:
            raise UserError(f"there is no setting {key}; {_suggest(key, kinds)}")
        if not equals:
            raise UserError(f"{key}: write {key}=VALUE")
        values[key] = _value(key, text.strip(), kinds[key])
    return replace(generation, **values)


def _value(key: str, text: str, kind: Any) -> object:
    kinds = (kind, *get_args(kind))  # of ``int | None`` its parts, too
    if NoneType in kinds and text.lower() in ("null", "none"):
        return None
    convert, expected = next(KINDS[kind] for kind in kinds if kind in KINDS)
    try:
        return convert(text)
    except (ValueError, RecursionError) as error:
        null = ", or null" if NoneType in kinds else ""
        raise UserError(f"{key}={text}: must be {expected}{null}") from error


def _texts(text: str) -> list[str]:
    texts = json.loads(text) if text.startswith("[") else [text]
    if not all(isinstance(item, str) for item in texts):
        raise ValueError("not texts")
    return texts


KINDS: dict[object, tuple[Callable[[str], object], str]] = {
    int: (int, "a whole number"),
    float: (float, "a number"),
    str: (str, "a word"),
    list[str]: (_texts, 'a text, or a list such as ["a", "b"]'),
}


def _suggest(word: str, words: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(words)}"


@dataclass(frozen=True)
class Command:
    """``run(session, argument)`` returns a reply or a text; help shows the other fields."""

    argument: str  # empty: the command takes none
    about: str
    run: Callable[[Session, str], Reply | str]


def _help(session: Session, argument: str) -> str:
    rows = [(f"{name} {c.argument}".strip(), c.about) for name, c in COMMANDS.items()]
    width = max(len(name) for name, _ in (*rows, *KEYS))
    return "\n".join(f"{name:{width}}  {about}" for name, about in (*rows, *KEYS))


def _clear(session: Session, argument: str) -> str:
    session.clear()
    return "forgotten: the next question is the first"


def _retry(session: Session, argument: str) -> Reply:
    return session.retry()


def _settings(session: Session, argument: str) -> str:
    if argument:
        session.generation = change_settings(session.generation, argument)
    return "\n".join(
        f"{key}={value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
        for key, value in asdict(session.generation).items()
    )


def _save(session: Session, argument: str) -> str:
    if not argument:
        raise UserError(f"name the file: /save talk{ROWS}")
    num_turns = session.save(argument)
    turns = "1 turn" if num_turns == 1 else f"{num_turns} turns"
    return f"saved {turns} as one row; to train on it: data=file {option('data.path', argument)}"


def _quit(session: Session, argument: str) -> str:
    raise Leave


COMMANDS = {
    "/help": Command("", "what can be said here", _help),
    "/clear": Command("", "forget the conversation", _clear),
    "/retry": Command("", "ask the last question again, with the next seed", _retry),
    "/settings": Command("[key=value ...]", "show the settings, or change some", _settings),
    "/save": Command(f"FILE{ROWS}", "write the conversation as a row to train on", _save),
    "/quit": Command("", "leave", _quit),
}
KEYS = (  # of the line editor
    ("Alt-Enter", "a new line in the question; so is Enter after a backslash"),
    ("Ctrl-C", "stop the answer and keep what came"),
    ("Ctrl-D", "leave"),
)
