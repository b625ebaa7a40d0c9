"""Messages in any shape and order become turns: those of rows and of requests alike.

What counts as a message::

    {"role": "user", "content": "Hi"}     under these keys, or from/value, speaker/text, ...
    {"human": "Hi", "assistant": "Ho"}    both sides in one object, or one
    ["Hi", "Ho"] or ["user", "Hi"]        both sides, or a role and a text
    "Hi", "Ho"                            plain texts, which alternate

Neighbours of one role are joined by an empty line; system texts too, at the front.
"""

import ast
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from src.data.content import MEDIA, UnusableRow, content_text, listed, shown
from src.data.roles import Role, known_role, plain, role_of

JOINT = "\n\n"  # between the texts of neighbours
ROLE_KEYS = ("role", "from", "speaker", "author", "sender", "participant", "actor", "who", "type")
TEXT_KEYS = ("content", "value", "text", "message", "utterance", "body", "msg", "parts", "data")
TOOL_KEYS = ("toolcalls", "toolcall", "functioncall", "functioncalls")
TAUGHT_KEYS = tuple(  # 0 or false: read
    "weight train training trainable loss lossmask lossweight supervised".split()
)
READ_KEYS = ("mask", "masked", "ignore")  # true: read
FALSE = ("0", "0.0", "false", "no")


class Reading(NamedTuple):
    """What messages say.

    Args:
        system: the system texts.
        opening: the assistant's text before the first prompt; context.
        turns: prompts and responses, stripped.
        taught: for each response, whether it is taught or only read.
        question: the last prompt, if it has no response.
        unused: names of what was found and not used, such as "message key id".
    """

    system: str = ""
    opening: str = ""
    turns: tuple[tuple[str, str], ...] = ()
    taught: tuple[bool, ...] = ()
    question: str | None = None
    unused: tuple[str, ...] = ()


class Message(NamedTuple):
    """One text and its author."""

    role: Role
    text: str
    taught: bool = True


class Keys(NamedTuple):
    """What the keys of a message are for; ``sides``: each key is itself the role of its text."""

    role: str | None
    text: str | None
    taught: tuple[str, ...]
    read: tuple[str, ...]
    tools: tuple[str, ...]
    media: tuple[str, ...]
    unused: tuple[str, ...]
    sides: tuple[tuple[Role, str], ...] = ()


def read_messages(messages: Any, skip_empty: bool = False) -> Reading:
    """Return what a list of messages says, in whatever shape and order.

    Args:
        messages: a list; or an object of two lists, as ``datasets`` keeps a sequence of objects.
        skip_empty: leave out messages without text; else a turn without one is an error.

    Raises:
        UnusableRow: it is no list of messages, or holds what we do not read: a tool call, an
            image, an unknown role.
    """
    unused: list[str] = []
    return read_turns(list_messages(messages, unused), unused, skip_empty)


def list_messages(messages: Any, unused: list[str]) -> list[Message]:
    """Return a list of messages, one by one; what is not used of them goes to ``unused``.

    Raises:
        UnusableRow: as ``read_messages``.
    """
    return list(_messages(messages, unused))


def read_turns(messages: list[Message], unused: list[str], skip_empty: bool = False) -> Reading:
    """Return what ``messages`` say together; neighbours of one role are joined.

    Raises:
        UnusableRow: a turn has no text.
    """
    systems: list[str] = []
    runs: list[tuple[Role, list[str], list[bool]]] = []  # neighbours of one role
    for role, text, taught in messages:
        if role == "system":
            if text:
                systems.append(text)
        elif text or not skip_empty:
            if not runs or runs[-1][0] != role:
                runs.append((role, [], []))
            if text:
                runs[-1][1].append(text)
                runs[-1][2].append(taught)
    opening, prompt = "", None
    turns, flags = [], []
    for position, (role, texts, taughts) in enumerate(runs):
        text = JOINT.join(texts)
        if role == "user":
            prompt = text
        elif position == 0:
            opening = text
        elif not prompt:
            raise UnusableRow("empty_prompt", f"before {shown(text)}")
        elif not text:
            raise UnusableRow("empty_response", f"after {shown(prompt)}")
        else:
            turns.append((prompt, text))
            flags.append(all(taughts))
            if any(taughts) and not flags[-1]:
                unused.append("message that is taught beside one that is only read")
            prompt = None
    return Reading(JOINT.join(systems), opening, tuple(turns), tuple(flags), prompt, tuple(unused))


def parse_list(text: str) -> list[Any] | None:
    """Return the list that a text holds, as JSON or as Python prints it; None: it holds none."""
    if text.lstrip()[:1] != "[":
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        try:
            value = ast.literal_eval(text.strip())  # how pandas writes a list into a CSV
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
    return value if isinstance(value, list) else None


def is_conversation(value: Any) -> bool:
    """Return whether a value looks like a list of messages; texts alone do not."""
    if isinstance(value, Mapping):
        return bool(_columnar(value))
    if not isinstance(value, (list, tuple)) or not value:
        return False
    first = next((item for item in value if item is not None), None)
    if isinstance(first, Mapping):
        keys = _keys(tuple(_unwrapped(first)))
        return bool(keys is not None and (keys.sides or keys.text or keys.tools))
    return isinstance(first, (list, tuple)) and _is_pair(first)


def _messages(messages: Any, unused: list[str]) -> Iterator[Message]:
    if isinstance(messages, Mapping):
        if not (names := _columnar(messages)):
            raise UnusableRow("not_a_list_of_messages", f"an object {shown(messages)}")
        messages = [
            dict(zip(names, values, strict=True))
            for values in zip(*(messages[name] for name in names), strict=True)
        ]
    if not isinstance(messages, (list, tuple)):
        raise UnusableRow("not_a_list_of_messages", shown(messages))
    if messages and all(isinstance(message, str) for message in messages):
        yield from _plain_texts(messages, unused)
        return
    pairs = [m for m in messages if isinstance(m, (list, tuple))]
    named = bool(pairs) and all(_is_pair(pair) and known_role(pair[0]) for pair in pairs)
    for message in messages:
        if type(message) is dict or isinstance(message, Mapping):
            yield from _object(message, unused)
        elif isinstance(message, (list, tuple)) and _is_pair(message):
            first, second = message
            if named:
                yield _message(role_of(first), second, True, unused)
                continue
            for role, text in (("user", first), ("assistant", second)):
                if text is not None:
                    yield _message(role, text, True, unused)
        else:
            raise UnusableRow("not_a_list_of_messages", f"a message {shown(message)}")


def _message(role: Any, value: Any, taught: bool, unused: list[str]) -> Message:
    if role in ("tool_call", "tool_result"):
        raise UnusableRow(role, f"a message {shown(value)} of role {role}")
    return Message(role, content_text(value, unused), taught)


def _object(message: Mapping[str, Any], unused: list[str]) -> Iterator[Message]:
    message = _unwrapped(message)
    keys = _keys(tuple(message))
    if keys is None:
        raise UnusableRow("not_a_list_of_messages", f"a message with keys {listed(message)}")
    for key in keys.tools:
        if message[key]:
            raise UnusableRow("tool_call", f"{key} {shown(message[key])}")
    for key in keys.media:
        if message[key]:
            raise UnusableRow(_medium(key), f"{key} {shown(message[key])}")
    taught = not any(_is_false(message[key]) for key in keys.taught) and not any(
        message[key] and not _is_false(message[key]) for key in keys.read
    )
    for key in keys.unused:
        if message[key] is not None and message[key] not in ("", [], {}):
            unused.append(f"message key {key}")
    for role, key in keys.sides:
        if message[key] is not None:
            yield _message(role, message[key], taught, unused)
    if keys.role is not None:
        value = message.get(keys.text) if keys.text else message.get("refusal")
        if value is None and isinstance(message.get("refusal"), str):
            value = message["refusal"]
        yield _message(role_of(message[keys.role]), value, taught, unused)


def _unwrapped(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return langchain's own form as a message: the name of its class is the role."""
    if message.get("type") != "constructor" or not isinstance(message.get("kwargs"), Mapping):
        return message
    names = message.get("id") or [None]
    return {"role": names[-1], "content": message["kwargs"].get("content")}


@lru_cache(maxsize=1024)
def _keys(names: tuple[str, ...]) -> Keys | None:
    """Return what the keys of a message are for; None: it is no message."""
    by_name: dict[str, str] = {}
    for name in names:
        by_name.setdefault(plain(str(name)), name)
    role = next((by_name[key] for key in ROLE_KEYS if key in by_name), None)
    text = next((by_name[key] for key in TEXT_KEYS if key in by_name), None)
    if role is None and "content" in by_name:
        role = by_name.get("name")
    sides: tuple[tuple[Role, str], ...] = ()
    if role is None or (text is None and plain(role) == "type"):
        found = [(known_role(key), name) for key, name in by_name.items()]
        sides = tuple((r, name) for r, name in found if r in ("system", "user", "assistant"))
        if not sides and {"q", "a"} <= by_name.keys():
            sides = ("user", by_name["q"]), ("assistant", by_name["a"])
        if text is not None and "user" in by_name and len(sides) == 1:
            role, sides = by_name["user"], ()
        elif not sides:
            return None
        else:
            order = ("system", "user", "assistant")
            role, text, sides = None, None, tuple(sorted(sides, key=lambda s: order.index(s[0])))
    taught = tuple(by_name[key] for key in TAUGHT_KEYS if key in by_name)
    read = tuple(by_name[key] for key in READ_KEYS if key in by_name)
    tools = tuple(by_name[key] for key in TOOL_KEYS if key in by_name)
    used = {role, text, *taught, *read, *tools, *(name for _, name in sides), "refusal"}
    rest = [name for name in names if name not in used]
    media = tuple(name for name in rest if _medium(name))
    if not sides and text is None and not tools and set(rest) - set(media):
        return None  # a role beside a text of a name that is not known
    unused = tuple(name for name in rest if name not in media)
    return Keys(role, text, taught, read, tools, media, unused, sides)


def _medium(key: str) -> str:
    return next((medium for medium in MEDIA if plain(key).rstrip("s") == medium), "")


def _is_false(value: Any) -> bool:
    return value is not None and str(value).strip().casefold() in FALSE


def _is_pair(value: Sequence[Any]) -> bool:
    return len(value) == 2 and all(text is None or isinstance(text, str) for text in value)


def _columnar(messages: Mapping[str, Any]) -> list[str]:
    """Return the names of the lists in an object of equally long ones that make messages."""
    lists = {key: value for key, value in messages.items() if isinstance(value, (list, tuple))}
    keys = _keys(tuple(lists)) if lists else None
    if keys is None or (keys.text is None and not keys.sides):
        return []
    return list(lists) if len({len(value) for value in lists.values()}) == 1 else []


def _plain_texts(texts: Sequence[str], unused: list[str]) -> Iterator[Message]:
    """Texts alternate, the user first; or each begins with its author, as in "Human: Hi"."""
    labels = [text.partition(":")[0] for text in texts]
    if all(":" in text and known_role(label) for text, label in zip(texts, labels, strict=True)):
        for text, label in zip(texts, labels, strict=True):
            yield _message(role_of(label), text.partition(":")[2], True, unused)
        return
    for position, text in enumerate(texts):
        yield _message("assistant" if position % 2 else "user", text, True, unused)
