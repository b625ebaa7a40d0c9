"""A row in any layout that people have becomes a conversation, or a reason why not."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from src.data.columns import Columns, check_roles, name_columns
from src.data.content import UnusableRow as UnusableRow
from src.data.content import is_unicode, listed, shown
from src.data.layouts import Row, holds, row_messages, with_beginning
from src.data.messages import Message, list_messages, read_turns
from src.data.shapes import ADVICE, REFUSED
from src.errors import UserError

NUM_ODD_ROWS = 1000  # so many rows without a conversation at the start, and a source is refused
IMAGE_SIGNS = ("<image>", "<audio>", "<video>")  # where a text stands for one


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

    @property
    def first_prompt(self) -> str:
        """The prompt whose hash decides the split."""
        return self.turns[0][0]

    def documents(self) -> "list[Conversation]":
        """Return this alone: a row of conversations is one document."""
        return [self]


class RowReader:
    """Turns rows of one source into conversations; each row by its own columns.

    Args:
        column_names: the columns of the first row.
        columns: names of roles and the columns that hold them, such as ``{"prompt": "frage"}``;
            other columns are recognised by their names.
        where: the source's name for error messages.
        in_use: columns that the source itself reads, such as ``split``.

    Raises:
        UserError: a role of ``columns`` is misspelt; when called, none of the first
            ``NUM_ODD_ROWS`` rows is a conversation.
    """

    kind = "conversations"

    def __init__(
        self,
        column_names: list[str],
        columns: Mapping[str, str] | None,
        where: str,
        in_use: tuple[str, ...] = (),
    ):
        self.mapping = check_roles(columns or {}, where)
        self.where = where
        self.in_use = {*in_use}
        self.plans: dict[tuple[str, ...], Columns] = {}
        names = {
            name for name in column_names if isinstance(name, str)
        }  # or a bare list's messages
        self.absent = set(self.mapping.values()) - names
        self.num_odd: int | None = 0  # rows without a conversation so far; None: one had one
        self.unused: tuple[str, ...] = ()  # what the last row held and we did not use

    def __call__(self, row: Row | list[Any]) -> Conversation:
        """Return the row's conversation; ``unused`` then names what else the row holds.

        Raises:
            UnusableRow: with the reason.
            UserError: no row so far held a conversation.
        """
        self.unused = ()
        plan = None if isinstance(row, list) else self.plans.get(tuple(row))
        if plan is not None and plan.is_plain:  # nothing but texts, as most rows
            assert not isinstance(row, list)
            if (pair := self._plain_pair(row, plan)) is not None:
                self.num_odd = None
                return pair
        try:
            conversation = self._read(row)
        except UnusableRow as problem:
            if self.num_odd is not None and problem.reason in REFUSED:
                self.num_odd += 1
                if self.num_odd >= NUM_ODD_ROWS:
                    raise UserError(self._refusal(problem)) from problem
            raise
        self.num_odd = None
        return conversation

    def finish(self) -> None:
        """Check, after the last row, that every column of ``data.columns`` was in one.

        Raises:
            UserError: names the column.
        """
        if self.absent:
            seen = listed(dict.fromkeys(name for names in self.plans for name in names))
            raise UserError(
                f"{self.where}: data.columns names {listed(sorted(self.absent))}, but the columns "
                f"are: {seen or 'none'}"
            )

    def _refusal(self, problem: UnusableRow) -> str:
        return (
            f"{self.where}: no conversation in the first {NUM_ODD_ROWS:,} rows "
            f"({problem.reason}; {problem.found}): {ADVICE[problem.reason]}"
        )

    def _read(self, row: Row | list[Any]) -> Conversation:
        if isinstance(row, list):
            unused: list[str] = []
            return self._conversation(list_messages(row, unused), unused, {}, None)
        names = tuple(row)
        plan = self.plans.get(names)
        if plan is None:
            plan = self.plans[names] = name_columns(names, self.mapping)
            self.absent -= set(names)
        unused = []
        used, messages = row_messages(row, plan, unused)
        messages = with_beginning(row, plan, messages, used, unused)
        family = row.get(plan.family) if plan.family is not None else None
        if isinstance(family, str):
            used.add(str(plan.family))
        for name in plan.media:
            if row[name] and any(sign in m.text for m in messages for sign in IMAGE_SIGNS):
                raise UnusableRow("image", f"column {name}: {shown(row[name])}")
        used |= self.in_use
        left = [f"column {name}" for name in names if name not in used and holds(row[name])]
        return self._conversation(messages, left + unused, row, family)

    def _plain_pair(self, row: Row, plan: Columns) -> Conversation | None:
        """Return the conversation of a row of plain texts, as most are; None: it is another."""
        texts = plan.texts(row)
        for text in texts:
            if type(text) is not str or not (text.isascii() or is_unicode(text)):
                return None
        prompt, response = texts[0].strip(), texts[1].strip()
        if prompt[:1] == "[" or response[:1] == "[":  # perhaps a list of messages, as JSON
            return None
        for text in texts[2:]:
            if text := text.strip():
                prompt = f"{prompt}\n{text}" if prompt else text
        if not prompt or not response:
            return None
        if not plan.rest:
            return Conversation(((prompt, response),))
        family, unused = "", []
        for name in plan.rest:
            value = row[name]
            if isinstance(value, (list, tuple, Mapping)):
                return None
            if name == plan.family and isinstance(value, str):
                family = value
            elif name not in self.in_use and holds(value):
                unused.append(f"column {name}")
        self.unused = tuple(unused)
        return Conversation(((prompt, response),), family=family)

    def _conversation(
        self, messages: list[Message], unused: list[str], row: Row, family: Any
    ) -> Conversation:
        reading = read_turns(messages, unused)
        if not reading.turns:
            raise UnusableRow("no_complete_turn", shown(reading.question or reading.opening or row))
        if not any(reading.taught):
            raise UnusableRow("nothing_taught", shown(reading.turns[0][1]))
        names = list(reading.unused)
        if reading.question:
            names.append("last question without an answer")
        self.unused = tuple(dict.fromkeys(names))
        return Conversation(
            turns=reading.turns,
            system=reading.system,
            opening=reading.opening,
            taught=() if all(reading.taught) else reading.taught,
            family=family if isinstance(family, str) else "",
        )
