"""A row in any layout of preferences becomes a comparison, or a reason why not.

What the replies answer is read by the reader of conversations: each reply stands as the response
of a row of its own, and all but the last response must be the same in all of them.
"""

from collections.abc import Mapping
from typing import Any

from src.data.columns import LISTS, name_columns
from src.data.comparison import Comparison, Context, ScoredReply, compare
from src.data.comparison_columns import GROUPS, Replies, comparison_columns, row_replies
from src.data.content import UnusableRow, content_text, listed, shown
from src.data.conversation import NUM_ODD_ROWS, Conversation, RowReader
from src.data.hh_transcript import read_transcript
from src.data.layouts import Row
from src.data.messages import is_conversation, list_messages, parse_list
from src.data.roles import plain
from src.data.shapes import ADVICE
from src.data.texts import read_text
from src.errors import UserError

REPLY, CONVERSATION = "\0reply", "\0conversation"  # our names for columns; no file has them
NO_ANSWER = "last question without an answer"
EMPTY = "\0"  # stands for a reply without text while the others are read


class ComparisonReader:
    """Turns rows of one source into comparisons; see ``RowReader``.

    Args:
        column_names: the columns of the first row.
        columns: names of roles and the columns that hold them; beside those of conversations
            chosen, rejected, replies, ranks, scores, best and ended.
        where: the source's name for error messages.
        in_use: columns that the source itself reads, such as ``split``.

    Raises:
        UserError: a role of ``columns`` is misspelt; when called, none of the first
            ``NUM_ODD_ROWS`` rows holds replies that are compared.
    """

    kind = "comparisons"

    def __init__(
        self,
        column_names: list[str],
        columns: Mapping[str, str] | None,
        where: str,
        in_use: tuple[str, ...] = (),
    ):
        self.where = where
        self.in_use = in_use
        given = {plain(role): name for role, name in (columns or {}).items()}
        self.mapping = {role: name for role, name in given.items() if role in GROUPS}
        self.others = {role: name for role, name in given.items() if role not in GROUPS}
        self.seen = {name for name in column_names if isinstance(name, str)}
        self.absent = set(given.values()) - self.seen
        self.num_odd: int | None = 0
        self.unused: tuple[str, ...] = ()
        RowReader([], self.others, where)  # its roles are checked here
        self.pairs = RowReader([], self.others | {"response": REPLY}, where, in_use)
        self.conversations = RowReader([], self.others | {"messages": CONVERSATION}, where, in_use)
        self.pairs.num_odd = self.conversations.num_odd = None  # it is counted here

    def __call__(self, row: Row | list[Any]) -> Comparison | ScoredReply:
        """Return what the row compares; ``unused`` then names what else the row holds.

        Raises:
            UnusableRow: with the reason.
            UserError: no row so far held a comparison.
        """
        try:
            found = self._read(row)
        except UnusableRow as problem:
            if self.num_odd is not None and problem.reason in ("no_comparison", "no_ranks"):
                self.num_odd += 1
                if self.num_odd >= NUM_ODD_ROWS:
                    raise UserError(
                        f"{self.where}: no comparison in the first {NUM_ODD_ROWS:,} rows "
                        f"({problem.reason}; {problem.found}): {ADVICE[problem.reason]}"
                    ) from problem
            raise
        self.num_odd = None
        return found

    def finish(self) -> None:
        """Check, after the last row, that every column of ``data.columns`` was in one.

        Raises:
            UserError: names the column.
        """
        if self.absent:
            raise UserError(
                f"{self.where}: data.columns names {listed(sorted(self.absent))}, but the columns "
                f"are: {listed(sorted(self.seen)) or 'none'}"
            )

    def _read(self, row: Row | list[Any]) -> Comparison | ScoredReply:
        self.unused = ()
        if isinstance(row, list):
            raise UnusableRow("no_comparison", "a list of messages")
        self.seen.update(map(str, row))
        self.absent -= row.keys()
        columns = comparison_columns(row, self.mapping)
        response = name_columns(row, self.others).response
        replies = row_replies(row, columns, response)
        rest = {name: value for name, value in row.items() if name not in replies.used}
        unused: list[str] = []
        contexts, texts, family = self._texts(rest, replies, unused)
        self.unused = tuple(dict.fromkeys(unused))
        if other := next((c for c in contexts if c != contexts[0]), None):
            raise UnusableRow("different_prompts", _difference(contexts[0], other))
        ended = replies.ended or [True] * len(texts)
        if any(not text and not end for text, end in zip(texts, ended, strict=True)):
            raise UnusableRow("empty_response", "a reply that is cut off before its first token")
        if replies.ranks is None:
            return ScoredReply(contexts[0], texts[0], replies.score, ended[0], family)
        return compare(contexts[0], texts, replies.ranks, ended, family)

    def _texts(
        self, rest: dict[str, Any], replies: Replies, unused: list[str]
    ) -> tuple[list[Context], list[str], str]:
        """Return what each reply answers, its text, and the family of the row."""
        values = replies.values
        if not values:
            raise UnusableRow("one_reply", "no reply")
        plain_texts = all(type(value) is str and value[:1] != "[" for value in values)
        if not plain_texts or self._holds_prompt(values[0], rest):
            found = [self._conversation(rest, value, unused) for value in values]
            contexts = [_context(conversation) for conversation in found]
            return contexts, [c.turns[-1][1] for c in found], found[0].family
        texts = [content_text(value, unused) for value in values]
        if "" in texts and replies.ended is None:
            raise UnusableRow("empty_response", shown(values[texts.index("")]))
        first = texts[0] or EMPTY
        conversation = self._conversation(rest, first, unused)
        if conversation.turns[-1][1] != first:
            raise UnusableRow("prompt_ends_with_reply", shown(conversation.turns[-1][1]))
        return [_context(conversation)], texts, conversation.family

    def _holds_prompt(self, value: str, rest: Row) -> bool:
        """Whether a reply's text is a whole conversation: where no column holds the prompt."""
        if read_transcript(value) is not None:
            return True
        plan = name_columns(rest, self.others)
        return plan.prompt is None and not plan.lists and not plan.histories and not plan.extras

    def _conversation(self, rest: dict[str, Any], value: Any, unused: list[str]) -> Conversation:
        """Return the conversation that ends with a reply."""
        plan = name_columns(rest, self.others)
        asked = rest[plan.prompt] if plan.prompt is not None else None
        messages = _messages(value, None if asked is None else plan.prompt)
        if messages is None and type(asked) is str and (begun := read_transcript(asked)):
            if begun[-1]["role"] == "assistant" and not begun[-1]["content"]:
                begun.pop()
            messages = [*begun, {"role": "assistant", "content": value}]
        if messages is None:
            reader, row = self.pairs, {REPLY: value, **rest}
        else:
            # A prompt beside a whole conversation says again how it begins.
            left_out = {plan.prompt} if _says(messages, asked) else set()
            if asked is not None and not left_out and _goes_on(messages):
                left_out, messages = {plan.prompt}, [*_asked_messages(asked), *messages]
            left_out |= {name for name in plan.lists if _begins(messages, rest[name])}
            reader = self.conversations
            row = {CONVERSATION: messages}
            row |= {name: value for name, value in rest.items() if name not in left_out}
        try:
            conversation = reader(row)
        except UnusableRow as problem:
            if problem.reason == "no_conversation":
                raise UnusableRow("no_prompt", f"columns {listed(rest)}") from problem
            raise
        if f"column {REPLY}" in reader.unused:
            raise UnusableRow("no_prompt", f"columns {listed(rest)}")
        if NO_ANSWER in reader.unused:
            raise UnusableRow("ends_without_reply", shown(conversation.turns[-1][1]))
        unused += reader.unused
        return conversation


def _messages(value: Any, prompt: str | None) -> Any:
    """Return the messages of a reply that is a whole conversation; None: it is a reply alone."""
    if type(value) is str:
        parsed = parse_list(value) if value[:1] == "[" else None
        if parsed is None or not is_conversation(parsed):
            found = read_transcript(value)
            if found is None and prompt is None:
                found = read_text(value)
            return found
        value = parsed
    if isinstance(value, Mapping):
        value = next((v for k, v in value.items() if plain(str(k)) in LISTS), value)
    if isinstance(value, (list, tuple)) and value:
        messages = list_messages(value, [])
        if any(message.role == "user" for message in messages) or prompt is None:
            return value
    return None


def _context(conversation: Conversation) -> Context:
    turns = conversation.turns
    return Context(turns[:-1], turns[-1][0], conversation.system, conversation.opening)


def _says(messages: Any, asked: Any) -> bool:
    """Whether a text is what a user says in ``messages``."""
    if not isinstance(asked, str):
        return _begins(messages, asked)
    said = (m.text for m in list_messages(messages, []) if m.role == "user")
    found = read_transcript(asked)
    return asked.strip() in said or (found is not None and _begins(messages, found))


def _goes_on(messages: Any) -> bool:
    """Whether the assistant speaks first, as where the prompt stands beside several turns."""
    roles = (message.role for message in list_messages(messages, []))
    return next(roles, None) == "assistant"


def _asked_messages(asked: Any) -> list[Any]:
    """Return the messages of a prompt, which is a text or a list of them."""
    if is_conversation(asked):
        return list(asked)
    text = content_text(asked, [])
    return read_transcript(text) or [{"role": "user", "content": text}]


def _begins(messages: Any, value: Any) -> bool:
    """Whether ``messages`` begin with another list of them, or do but for its last reply."""
    if not is_conversation(value):
        return False
    ours, theirs = list_messages(messages, []), list_messages(value, [])
    if theirs and theirs[-1].role == "assistant":
        theirs = theirs[:-1]
    return [m[:2] for m in ours[: len(theirs)]] == [m[:2] for m in theirs]


def _difference(one: Context, other: Context) -> str:
    for name, first, second in zip(one._fields, one, other, strict=True):
        if first != second:
            return f"{name} {shown(first, 40)} and {shown(second, 40)}"
    return ""
