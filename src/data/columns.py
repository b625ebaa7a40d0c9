"""Which column holds what, by the names that people use, capitals or not.

Where several columns could serve, the first in these lists does; the report names the others.
"""

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from typing import Any

from src.data.roles import plain
from src.errors import UserError

LISTS = (
    "messages",
    "conversations",
    "conversation",
    "dialog",
    "dialogue",
    "dialogs",
    "dialogues",
    "turns",
    "chat",
    "thread",
    "data",
    "utterances",
    "chosen",  # of a preference: the better conversation
)
PROMPTS = (
    "prompt",
    "instruction",
    "question",
    "query",
    "problem",
    "user",
    "human",
    "input",
    "inputs",
    "request",
    "usermessage",
    "userprompt",
    "userinput",
    "instructions",
    "task",
    "ask",
    "q",
    "message",
)
RESPONSES = (
    "response",
    "completion",
    "output",
    "answer",
    "assistant",
    "reply",
    "solution",
    "bot",
    "gpt",
    "ai",
    "chatbot",
    "assistantmessage",
    "assistantresponse",
    "modelresponse",
    "botresponse",
    "airesponse",
    "target",
    "targets",
    "outputs",
    "completions",
    "bestanswer",
    "generation",
    "generatedtext",
    "a",
    "chosen",
)
EXTRAS = ("input", "context", "passage", "background", "question", "query")
SYSTEMS = (
    "system",
    "systemprompt",
    "systemmessage",
    "systemtext",
    "systeminstruction",
    "systeminstructions",
    "sys",
    "developer",
)
HISTORIES = ("history", "chathistory", "conversationhistory", "dialoghistory", "dialoguehistory")
TEXTS = ("text", "conversationtext", "chattext", "formattedtext", "sample", "transcript")
MEDIA = ("image", "images", "audio", "audios", "video", "videos")
LABELS = ("family",)  # for scores by family
ROLES = {
    *LISTS,
    *PROMPTS,
    *RESPONSES,
    *EXTRAS,
    *SYSTEMS,
    *HISTORIES,
    *TEXTS,
    *LABELS,
}


@dataclass(frozen=True)
class Columns:
    """What the columns of a row are for: names of columns; ``rest`` have no known name.

    ``pair_first``: the person named columns of a pair, so it comes before lists of messages.
    """

    lists: tuple[str, ...]
    prompt: str | None
    response: str | None
    extras: tuple[str, ...]
    systems: tuple[str, ...]
    histories: tuple[str, ...]
    media: tuple[str, ...]
    rest: tuple[str, ...]
    family: str | None
    pair_first: bool

    @cached_property
    def pair(self) -> tuple[str, ...]:
        """The columns of the prompt, the response and what follows the prompt; or none."""
        if self.prompt is None or self.response is None:
            return ()
        return (self.prompt, self.response, *self.extras)

    @cached_property
    def texts(self) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
        """What takes the values of ``pair`` out of a row."""
        return itemgetter(*self.pair)

    @cached_property
    def is_plain(self) -> bool:
        """Whether, by their names, the columns hold a pair and nothing else of a conversation."""
        return bool(self.pair) and not (
            self.systems
            or self.histories
            or self.media
            or (self.lists and not self.pair_first)
            or plain(str(self.prompt)).startswith("input")  # perhaps a tool's
        )


def check_roles(columns: Mapping[str, str], where: str) -> dict[str, str]:
    """Return ``data.columns`` with the names of roles as we write them.

    Raises:
        UserError: a role is misspelt.
    """
    names = {}
    for role, column in columns.items():
        if plain(role) not in ROLES:
            close = difflib.get_close_matches(plain(role), sorted(ROLES), n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise UserError(
                f"{where}: data.columns.{role}: there is no role of this name; {hint}roles are "
                f"prompt, response, instruction, input, output, context, system, history, "
                f"messages, text and their usual names"
            )
        names[plain(role)] = column
    return names


def name_columns(names: Iterable[str], mapping: Mapping[str, str]) -> Columns:
    """Return what the columns ``names`` are for; ``mapping`` is checked ``data.columns``."""
    names = list(names)
    mapped = {role: column for role, column in mapping.items() if column in names}
    by_role = dict(mapped)
    for name in names:
        if name not in mapped.values():
            by_role.setdefault(plain(str(name)), name)

    def all_of(roles: Iterable[str]) -> list[str]:
        # What the person named comes first.
        return sorted((r for r in roles if r in by_role), key=lambda role: role not in mapped)

    lists = all_of(LISTS)
    prompts = all_of(PROMPTS)
    prompt = next(iter(prompts), None)
    order: tuple[str, ...] = RESPONSES
    if prompt == "problem":  # mathematics: the solution holds the answer
        order = ("solution", *(role for role in RESPONSES if role != "solution"))
    response = next((role for role in all_of(order) if role != prompt), None)
    extras = [role for role in all_of(EXTRAS) if role not in (prompt, response)]
    if prompt != "instruction":
        extras = [role for role in extras if role not in ("question", "query")]
    histories, systems = all_of(HISTORIES), all_of(SYSTEMS)
    known = {*lists, prompt, response, *extras, *systems, *histories}
    in_use = {by_role[role] for role in known if role is not None}
    media = [name for name in names if plain(str(name)) in MEDIA and name not in in_use]
    return Columns(
        lists=tuple(by_role[role] for role in lists),
        prompt=by_role.get(prompt or ""),
        response=by_role.get(response or ""),
        extras=tuple(by_role[role] for role in extras),
        systems=tuple(by_role[role] for role in systems),
        histories=tuple(by_role[role] for role in histories),
        media=tuple(media),
        rest=tuple(name for name in names if name not in in_use and name not in media),
        family=by_role.get("family"),
        pair_first=bool(mapped.keys() & {prompt, response}) and not mapped.keys() & {*lists},
    )
