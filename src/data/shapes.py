"""Rows that are no conversation are refused by what they are, with the way out."""

from collections.abc import Mapping, Sequence
from typing import Any

from src.data.content import UnusableRow, listed, shown
from src.data.roles import known_role, plain

ADVICE = {
    "no_conversation": "name your columns, for example data.columns={prompt: question, "
    "response: answer}, or keep a list of messages under messages",
    "broken_line": "mend or remove them",
    "tree": "a tree of replies has many conversations: write each path from its root to a reply "
    "as one row, {messages: [...]}",
    "columnar": "a table kept by columns, as pandas writes it by default: save it with "
    'to_json(orient="records", lines=True)',
    "one_message_a_row": "put the messages of one conversation into one row, "
    "{messages: [{role: ..., content: ...}, ...]}",
    "tool_log": "a log of tools has no prompts and responses: write what was asked and answered "
    "as {messages: [...]}",
    "plain_text": "a text without turns: conversations are {prompt, response} or {messages: [...]}",
    "tool_call": "tool calls are not read: take such messages out",
    "tool_result": "tool results are not read: take such messages out",
    "image": "images are not read: take such messages out",
    "audio": "audio is not read: take such messages out",
    "unknown_role": "roles are system, user, assistant or their usual names",
    "no_comparison": "replies that are compared are {prompt, chosen, rejected}, {prompt, replies, "
    "ranks}, {prompt, replies, scores}, {prompt, replies, best} or {prompt, response, score}; or "
    "name your columns, for example data.columns={chosen: good, rejected: bad}",
    "no_ranks": "replies need ranks, scores or best beside them",
    "different_prompts": "the conversations must be the same up to the last reply",
    "ends_without_reply": "the last message must be the assistant's: it is what is compared",
    "no_prompt": "name the column of the prompt, for example data.columns={prompt: question}",
    "ranks_do_not_match": "each reply needs one",
    "bad_rank": "ranks and scores are numbers; best counts from 0",
    "no_preference": "all replies are tied, so there is nothing to learn",
    "one_reply": "one reply is not better than another: give at least two to a prompt",
    "nothing_taught": "every response has weight 0 or train false",
}
REFUSED = {"no_conversation", "tree", "columnar", "one_message_a_row", "tool_log", "plain_text"}

BRANCHES = {"replies", "children", "mapping"}
PARENTS = {"parentid", "parent", "parentmessageid"}
TOOLS = {
    "tool",
    "tools",
    "toolname",
    "toolcall",
    "toolcalls",
    "toolinput",
    "tooloutput",
    "functioncall",
    "functionname",
    "arguments",
    "args",
    "observation",
    "observations",
    "action",
    "actions",
    "steps",
    "trajectory",
}
CALLED = {"tool", "toolname", "function", "functionname"}  # beside input and output: a log
ROLE_NAMES = {"role", "from", "speaker", "author", "sender"}
TEXT_NAMES = {"content", "value", "text", "message", "utterance"}


def refusal(row: Mapping[str, Any]) -> UnusableRow:
    """Return why a row without a conversation cannot be used: what it is."""
    names = {plain(str(name)) for name in row}
    columns = f"columns {listed(row)}"
    if names & PARENTS and names & TEXT_NAMES:
        return UnusableRow("tree", f"{columns}: one message a row, with its parent")
    if any(_is_tree(value) for value in row.values()) or names & BRANCHES:
        return UnusableRow("tree", f"{columns}: messages that hold their replies")
    if is_columnar(row) or keeps_columns_as_lists([v for v in row.values() if v is not None]):
        return UnusableRow("columnar", f"columns {listed(row)} with a value for each row")
    if names & ROLE_NAMES and names & TEXT_NAMES:
        return UnusableRow("one_message_a_row", columns)
    if names & TOOLS or any(known_role(name) in ("tool_call", "tool_result") for name in names):
        return UnusableRow("tool_log", columns)
    texts = [name for name, value in row.items() if isinstance(value, str)]
    if len(texts) == 1 and plain(texts[0]) in TEXT_NAMES:
        return UnusableRow("plain_text", f"column {texts[0]}: {shown(row[texts[0]])}")
    return UnusableRow("no_conversation", columns)


def is_tool_log(row: Mapping[str, Any], prompt: str) -> bool:
    """Return whether the ``prompt`` of ``row`` is the input of a tool that another column names."""
    if not plain(prompt).startswith("input"):
        return False
    return any(plain(str(name)) in CALLED and value for name, value in row.items())


def is_columnar(row: Mapping[str, Any]) -> bool:
    """Return whether ``row`` is a whole table, kept by its columns."""
    values = [value for value in row.values() if value is not None]
    if {"columns", "data"} <= row.keys() or not values:
        return bool(values)
    if all(isinstance(value, Mapping) and value for value in values):
        return all(str(key).isdecimal() for value in values for key in value)
    return False


def keeps_columns_as_lists(values: Sequence[Any]) -> bool:
    """Return whether ``values`` are several equally long lists of texts or numbers."""
    if len(values) < 2 or not all(isinstance(value, (list, tuple)) for value in values):
        return False
    plain_items = all(
        item is None or isinstance(item, (str, int, float)) for value in values for item in value
    )
    return plain_items and len({len(value) for value in values}) == 1 and len(values[0]) > 1


def _is_tree(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(_is_tree(item) for item in value[:3])
    return isinstance(value, Mapping) and any(plain(str(key)) in BRANCHES for key in value)
