"""The messages of a conversation: which a model can answer, and which fit its positions."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Any, Literal

from src.data.content import UnusableRow
from src.data.messages import read_messages
from src.errors import UserError

Role = Literal["system", "user", "assistant"]

CHARACTERS_A_TOKEN = 8  # more than in most texts

# Why messages cannot be read, for the person who sent them.
REASONS = {
    "tool_call": "calls of tools are not supported here",
    "tool_result": "results of tools are not supported here",
    "image": "images are not supported here",
    "audio": "audio is not supported here",
    "video": "video is not supported here",
    "file": "files are not supported here",
    "document": "documents are not supported here",
    "unknown_role": "the roles are system, user and assistant, not this",
    "invalid_unicode": "not valid Unicode, half a surrogate pair",
    "not_text": "a content must be text or a list of text parts, not this",
    "not_a_list_of_messages": "messages must be a list of objects with role and content, not this",
}


@dataclass(frozen=True)
class Message:
    """A text and its author."""

    role: Role
    content: str


@dataclass(frozen=True)
class Prompt:
    """The ids that the model reads, and the number of the oldest turns that they leave out."""

    ids: list[int]
    num_dropped_turns: int


@dataclass(frozen=True)
class Question:
    """Messages that a reply can follow, as ``check_messages`` wants them.

    Attributes:
        messages: the conversation, a question at its end.
        beginning: the text that the reply continues: that of a last message of the assistant.
        unused: names of what the messages hold and nobody reads, such as "message key name".
    """

    messages: list[Message]
    beginning: str
    unused: tuple[str, ...]


def read_question(messages: Sequence[Any]) -> Question:
    """Return what a program sends, in any order of roles and with any keys, as a conversation.

    Messages without text are left out, neighbours of one role joined, system texts put in front; an
    assistant's text before the first question is context. The reader is that of rows.

    Raises:
        UserError: there is no question, the last one is empty, or a message holds what no model of
            ours reads: an image, a tool's result, an unknown role.
    """
    try:
        reading = read_messages(messages, skip_empty=True)
        if read_messages(messages[-1:]).question == "":
            raise UserError("the last message is empty: write a question")
    except UnusableRow as error:
        reason = REASONS.get(error.reason, error.reason.replace("_", " "))
        raise UserError(f"{_place(messages)}: {reason}: {error.found}") from error
    turns, question, beginning = list(reading.turns), reading.question, ""
    if question is None and turns:
        question, beginning = turns.pop()
    if not question:
        raise UserError("there is no question: a message of role user is needed")
    read = [Message("system", reading.system)] if reading.system else []
    read += [Message("assistant", reading.opening)] if reading.opening else []
    for prompt, response in turns:
        read += [Message("user", prompt), Message("assistant", response)]
    return Question([*read, Message("user", question)], beginning, reading.unused)


def _place(messages: Sequence[Any]) -> str:
    """Return which message cannot be read, counted from 1."""
    for number, message in enumerate(messages, start=1):
        try:
            read_messages([message], skip_empty=True)
        except UnusableRow:
            return f"message {number}"
    return "messages"


def check_messages(messages: Sequence[Message]) -> None:
    """Check that a reply can follow: a system text, an opening, turns, a question at the end.

    System text and opening, the assistant's text before the first question, are optional.

    Raises:
        UserError: names the message, counted from 1, and its fault.
    """
    if not messages or messages[-1].role != "user":
        raise UserError("the last message must be a question, of role user")
    expected: tuple[Role, ...] = ("system", "assistant", "user")
    for number, message in enumerate(messages, start=1):
        if message.role not in expected:
            raise UserError(
                f"message {number} is of role {message.role}, not {' or '.join(expected)}: after "
                f"an optional system text, user and assistant take turns"
            )
        after: dict[Role, tuple[Role, ...]] = {
            "system": ("assistant", "user"),
            "user": ("assistant",),
            "assistant": ("user",),
        }
        expected = after[message.role]
        where = "the prompt" if len(messages) == 1 else f"message {number}"
        try:
            message.content.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"{where} is not valid Unicode: character {error.start} is half a surrogate pair"
            ) from error
    if not messages[-1].content.strip():
        raise UserError("the prompt is empty: write a question")


def fit(
    messages: Sequence[Message],
    encode: Callable[[Sequence[Message]], list[int]],
    num_positions: int,
    max_new_tokens: int,
) -> Prompt:
    """Return the ids of ``messages``, without the oldest turns if a reply needs their room.

    The reply needs ``max_new_tokens`` positions, or a quarter of the model's ``num_positions`` if
    that is less. Whole turns are left out, an opening first, never the system text. ``encode`` is
    the chat template; of a conversation far longer than the model it gets the newest turns only.

    Raises:
        UserError: the last question alone leaves no position for a reply.
    """
    room = min(max_new_tokens, max(1, num_positions // 4))
    num_system = int(messages[0].role == "system")
    starts = [i for i, message in enumerate(messages) if i == num_system or message.role == "user"]
    starts = [i for i in starts if i >= num_system]

    @cache
    def encode_without(num_turns: int) -> list[int]:
        return encode([*messages[:num_system], *messages[starts[num_turns] :]])

    def fits(num_turns: int) -> bool:
        return len(encode_without(num_turns)) + room <= num_positions

    # Encoding is slow, so few numbers of turns are tried: fewer turns have fewer ids.
    most = len(starts) - 1
    too_few, enough = -1, _far_beyond(messages, starts, CHARACTERS_A_TOKEN * num_positions)
    if fits(enough):
        step = 1
        while enough - too_few > step and fits(enough - step):  # a long text of few tokens
            enough, step = enough - step, 2 * step
        too_few = max(too_few, enough - step)
    elif len(encode_without(most)) < num_positions:
        too_few, enough = enough, most
    if len(ids := encode_without(enough)) < num_positions:
        left = range(too_few + 1, enough)
        num_dropped = min(left.start + bisect_left(left, True, key=fits), most)
        return Prompt(encode_without(num_dropped), num_dropped)
    ids = encode_without(most)
    raise UserError(
        f"the prompt has {len(ids)} tokens and leaves no room for an answer: the model reads "
        f"at most {num_positions}; shorten it"
    )


def _far_beyond(messages: Sequence[Message], starts: Sequence[int], num_characters: int) -> int:
    """Return how many turns to leave out so that the others have ``num_characters`` at most."""
    lengths = [len(message.content) for message in messages]
    newer = list(accumulate(reversed(lengths)))[::-1]  # characters from each message on
    return bisect_left(
        range(len(starts) - 1), True, key=lambda i: newer[starts[i]] <= num_characters
    )
