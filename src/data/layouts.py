"""The layouts of a row: which of its columns hold the conversation, and what they say.

The order in which a row's columns are tried; what then is not used is named:

1. the columns that ``data.columns`` names;
2. a list of messages (or of texts that alternate) under its usual names;
3. a pair of prompt and response, with ``input``, ``context``, ``system``, ``history``;
4. a list of messages under any other name; one text with both sides; a list of texts.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from src.data.columns import LISTS, Columns
from src.data.content import UnusableRow, content_text, shown
from src.data.messages import Message, is_conversation, list_messages, parse_list
from src.data.roles import plain
from src.data.shapes import BRANCHES, is_columnar, is_tool_log, keeps_columns_as_lists, refusal
from src.data.texts import read_text

Row = Mapping[str, Any]
TAGS = frozenset(
    "tags labels topics categories keywords ids urls languages sources options choices".split()
)  # lists of texts that are no conversation


def row_messages(row: Row, plan: Columns, unused: list[str]) -> tuple[set[str], list[Message]]:
    """Return the columns that hold the conversation, and its messages."""
    if is_columnar(row):
        raise refusal(row)
    if not plan.pair_first and (found := _listed(row, plan, unused)) is not None:
        return found
    if plan.response is not None and (pair := _pair(row, plan, unused)) is not None:
        return pair
    if plan.pair_first and (found := _listed(row, plan, unused)) is not None:
        return found
    for name in row:
        if (messages := _as_conversation(row[name])) is not None:
            return {name}, list_messages(messages, unused)
    for name, value in row.items():
        if isinstance(value, str) and (texts := read_text(value)) is not None:
            return {name}, list_messages(texts, unused)
    alone = plan.prompt is None and plan.response is None  # else they are its choices or replies
    for name in plan.rest:
        if alone and name.casefold() not in TAGS | BRANCHES and _are_texts(row[name]):
            return {name}, list_messages(row[name], unused)
    problem = refusal(row)
    if plan.lists and problem.reason == "no_conversation":
        value = row[plan.lists[0]]
        if isinstance(value, (list, tuple)):  # what is wrong with it
            return {plan.lists[0]}, list_messages(value, unused)
        raise UnusableRow("not_a_list_of_messages", f"column {plan.lists[0]}: {shown(value)}")
    raise problem


def _listed(row: Row, plan: Columns, unused: list[str]) -> tuple[set[str], list[Message]] | None:
    """Return the first list of messages under a usual name; None: there is none."""
    for name in plan.lists:
        if (value := _as_list(_unwrapped(name, row[name], unused))) is None:
            continue
        messages = list_messages(value, unused)
        if plan.prompt is not None and all(m.role == "assistant" for m in messages):
            continue  # what was chosen as the response to a prompt
        alone = plan.prompt is None and messages[-1].role == "user"
        if alone and plan.response is not None and plan.response != name:
            answer = _side("assistant", row[plan.response], unused, row)
            return {name, plan.response}, [*messages, *answer]
        return {name}, messages
    return None


def with_beginning(
    row: Row, plan: Columns, messages: list[Message], used: set[str], unused: list[str]
) -> list[Message]:
    """Return the messages after the row's own system text and history."""
    own = {message.text for message in messages if message.role == "system"}
    systems = []
    for name in plan.systems:
        if name not in used and holds(row[name]):
            used.add(name)
            for value in _several(row[name]):
                if (text := content_text(value, unused)) not in own:
                    systems.append(Message("system", text))
    for name in plan.histories:
        if name not in used and holds(row[name]):
            used.add(name)
            messages = [*_history(name, row[name], unused), *messages]
    if used.isdisjoint({plan.prompt, plan.response}):
        messages = _with_context(row, plan, messages, used, unused)
    return [*systems, *messages]


def _several(value: Any) -> list[Any]:
    """Return the system texts of a column: a list of texts or messages holds several."""
    if isinstance(value, (list, tuple)) and all(
        isinstance(item, str) or (isinstance(item, Mapping) and "role" in item) for item in value
    ):
        return list(value)
    return [value]


def _with_context(
    row: Row, plan: Columns, messages: list[Message], used: set[str], unused: list[str]
) -> list[Message]:
    """A ``context`` beside a list of messages follows the first prompt, on a new line."""
    name = next((name for name in plan.extras if name.casefold() == "context"), None)
    first = next((i for i, message in enumerate(messages) if message.role == "user"), None)
    if name is None or name in used or first is None:
        return messages
    if not (text := _extra(row[name], unused)):
        return messages
    used.add(name)
    if text in messages[first].text:
        return messages
    prompt = messages[first]._replace(text=f"{messages[first].text}\n{text}".strip())
    return [*messages[:first], prompt, *messages[first + 1 :]]


def _pair(row: Row, plan: Columns, unused: list[str]) -> tuple[set[str], list[Message]] | None:
    """Return the columns and messages of prompt and response; None: the row has no prompt."""
    assert plan.response is not None
    if plan.prompt is not None and (
        keeps_columns_as_lists([row[plan.prompt], row[plan.response]])
        or is_tool_log(row, plan.prompt)
    ):
        raise refusal(row)
    used = {plan.response}
    answer = list(_side("assistant", row[plan.response], unused, row))
    if plan.prompt is None:
        # The context or the history alone: its last text is the prompt.
        for name in (*plan.extras, *plan.histories):
            if holds(row[name]) and not (isinstance(row[name], Mapping)):
                asked = list(_side("user", row[name], unused, row))
                return used | {name}, [*asked, *answer]
        return None
    used.add(plan.prompt)
    asked = list(_side("user", row[plan.prompt], unused, row))
    extras = []
    for name in plan.extras:
        if text := _extra(row[name], unused):
            extras.append(text)
            used.add(name)
    if extras:
        last = asked.pop() if asked and asked[-1].role == "user" else Message("user", "")
        asked.append(last._replace(text="\n".join(filter(None, (last.text, *extras)))))
    return used, [*asked, *answer]


def _side(role: Any, value: Any, unused: list[str], row: Row) -> Iterator[Message]:
    """Yield the messages of a prompt or a response: one text, or a list of messages."""
    if type(value) is not str:
        if isinstance(value, Mapping):
            if not is_conversation([value]):
                raise refusal(row)
            value = [value]
        if isinstance(value, (list, tuple)) and not isinstance(value, str):
            texts = _are_texts(value)
            if texts and role == "assistant":
                raise UnusableRow("several_responses", shown(value))
            if texts or is_conversation(value):
                yield from list_messages(value, unused)
                return
    elif value[:1] == "[" and (messages := _as_conversation(value)) is not None:
        yield from list_messages(messages, unused)
        return
    yield Message(role, content_text(value, unused))


def _extra(value: Any, unused: list[str]) -> str:
    """Return the text of an input or a context; "" where it holds none."""
    if isinstance(value, (list, tuple)) and all(isinstance(text, str) for text in value):
        return "\n".join(value).strip()
    return "" if isinstance(value, (Mapping, list, tuple)) else content_text(value, unused)


def _history(name: str, value: Any, unused: list[str]) -> list[Message]:
    if isinstance(value, str):
        parsed = parse_list(value)
        value = parsed if parsed is not None else read_text(value) or value
    if isinstance(value, (str, int, float)):
        raise UnusableRow("history_is_no_list", f"column {name}: {shown(value)}")
    return list_messages(value, unused)


def _unwrapped(name: str, value: Any, unused: list[str]) -> Any:
    """Return the one list of messages in an object, under a usual name; or the value itself."""
    if not isinstance(value, Mapping) or is_conversation(value):
        return value
    inner = [key for key in value if plain(str(key)) in LISTS and is_conversation(value[key])]
    if len(inner) != 1:
        return value
    unused += [f"key {name}.{key}" for key in value if key not in inner and holds(value[key])]
    return value[inner[0]]


def _as_list(value: Any) -> Any:
    """Return a list of messages or texts, from JSON too; None: it is neither."""
    if isinstance(value, str) and (value := parse_list(value)) is None:
        return None
    return value if is_conversation(value) or _are_texts(value) else None


def _as_conversation(value: Any) -> Any:
    """Return a list of messages, from JSON too; None: it is none."""
    if type(value) is str and value[:1] == "[":
        value = parse_list(value)
    return value if isinstance(value, (list, tuple, Mapping)) and is_conversation(value) else None


def _are_texts(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) > 1
        and all(isinstance(text, str) for text in value)
    )


def holds(value: Any) -> bool:
    """Return whether a value of a row is more than nothing; 0 and false are."""
    return value is not None and value not in ("", [], {})
