"""A row of any known column layout becomes a conversation, or a reason why not."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from src.data.content import UnusableRow
from src.errors import UserError

Row = Mapping[str, Any]


class Conversation(NamedTuple):
    """Stripped pairs of prompt and response, after an optional system text.

    Args:
        turns: prompts and responses.
        system: stands before the first prompt.
        opening: the assistant's text before the first prompt; context, never taught.
        taught: for each response, whether it is taught or only read; empty: all are taught.
        family: an optional label of the source, for scores by family.
    """

    turns: tuple[tuple[str, str], ...]
    system: str = ""
    opening: str = ""
    taught: tuple[bool, ...] = ()
    family: str = ""


USER_ROLES = {"user", "human", "prompter"}
ASSISTANT_ROLES = {"assistant", "gpt", "chatgpt", "bot", "model"}


def _text(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UnusableRow("not_text")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise UnusableRow("invalid_unicode") from None
    return value.strip()


def _single_turn(prompt: str, response: str) -> Conversation:
    if not prompt:
        raise UnusableRow("empty_prompt")
    if not response:
        raise UnusableRow("empty_response")
    return Conversation(turns=((prompt, response),))


def _from_instruction(row: Row) -> Conversation:
    instruction, extra = _text(row["instruction"]), _text(row.get("input"))
    return _single_turn("\n".join(filter(None, (instruction, extra))), _text(row["output"]))


def _from_messages(messages: Any, role_key: str, text_key: str) -> Conversation:
    """User and assistant alternate; a last question without an answer is dropped."""
    if not isinstance(messages, (list, tuple)):
        raise UnusableRow("not_a_list_of_messages")
    system, prompt, turns = "", None, []
    for position, message in enumerate(messages):
        if not isinstance(message, Mapping) or role_key not in message or text_key not in message:
            raise UnusableRow("not_a_list_of_messages")
        role, text = _text(message[role_key]), _text(message[text_key])
        if role == "system" and position == 0:
            system = text
        elif role in USER_ROLES and prompt is None:
            if not text:
                raise UnusableRow("empty_prompt")
            prompt = text
        elif role in ASSISTANT_ROLES and prompt is not None:
            if not text:
                raise UnusableRow("empty_response")
            turns.append((prompt, text))
            prompt = None
        elif role in USER_ROLES | ASSISTANT_ROLES | {"system"}:
            raise UnusableRow("unexpected_role_order")
        else:
            raise UnusableRow("unknown_role")
    if not turns:
        raise UnusableRow("no_complete_turn")
    return Conversation(turns=tuple(turns), system=system)


@dataclass(frozen=True)
class Layout:
    """One way in which datasets lay out a conversation in columns."""

    required: tuple[str, ...]
    parse: Callable[[Row], Conversation]
    optional: tuple[str, ...] = ()


LAYOUTS = (
    Layout(
        ("prompt", "response"), lambda r: _single_turn(_text(r["prompt"]), _text(r["response"]))
    ),
    Layout(
        ("prompt", "completion"), lambda r: _single_turn(_text(r["prompt"]), _text(r["completion"]))
    ),
    Layout(("instruction", "output"), _from_instruction, optional=("input",)),
    Layout(("messages",), lambda r: _from_messages(r["messages"], "role", "content")),
    Layout(("conversations",), lambda r: _from_messages(r["conversations"], "from", "value")),
)


class RowReader:
    """Turns rows of one source into conversations.

    Args:
        column_names: the columns of the source.
        columns: None: recognise the layout; or a mapping from a layout's names to the source's,
            such as ``{"prompt": "question", "response": "answer"}``.
        where: the source's name for error messages.

    Raises:
        UserError: no layout fits; names the source's columns.
    """

    def __init__(self, column_names: list[str], columns: Mapping[str, str] | None, where: str):
        listing = ", ".join(column_names) or "none"
        rename = dict(columns or {name: name for name in column_names})
        if absent := sorted(set(rename.values()) - set(column_names)):
            raise UserError(
                f"{where}: data.columns names {', '.join(absent)}, but the columns are: {listing}"
            )
        layout = next((x for x in LAYOUTS if set(x.required) <= rename.keys()), None)
        if layout is None:
            known = "; ".join("+".join(layout.required) for layout in LAYOUTS)
            raise UserError(
                f"{where}: no recognised columns (found: {listing}); known are {known}; name yours "
                f"with data.columns={{prompt: ..., response: ...}}"
            )
        names = (*layout.required, *layout.optional)
        if not columns:  # a later row may have an optional column that the first lacks
            rename |= {name: name for name in names}
        self.rename = {name: rename[name] for name in names if name in rename}
        self.required = {self.rename[name] for name in layout.required}
        self.parse = layout.parse

    def __call__(self, row: Row) -> Conversation:
        """Return the row's conversation.

        Raises:
            UnusableRow: with the reason.
        """
        if not self.required <= row.keys():
            raise UnusableRow("missing_column")
        conversation = self.parse(
            {name: row[column] for name, column in self.rename.items() if column in row}
        )
        family = row.get("family")
        return conversation._replace(family=family) if isinstance(family, str) else conversation
