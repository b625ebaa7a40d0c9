"""The messages of a conversation: which a model can answer, and which fit its positions."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from src.errors import UserError

Role = Literal["system", "user", "assistant"]


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


def check_messages(messages: Sequence[Message]) -> None:
    """Check that a reply can follow: an optional system text, then turns, a question at the end.

    Raises:
        UserError: names the message, counted from 1, and its fault.
    """
    if not messages or messages[-1].role != "user":
        raise UserError("the last message must be a question, of role user")
    expected: tuple[Role, ...] = ("system", "user")
    for number, message in enumerate(messages, start=1):
        if message.role not in expected:
            raise UserError(
                f"message {number} is of role {message.role}, not {' or '.join(expected)}: after "
                f"an optional system text, user and assistant take turns"
            )
        expected = ("assistant",) if message.role == "user" else ("user",)
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
    that is less. Whole turns are left out, never the system text. ``encode`` is the chat template.

    Raises:
        UserError: the last question alone leaves no position for a reply.
    """
    room = min(max_new_tokens, max(1, num_positions // 4))
    num_system = int(messages[0].role == "system")
    system, turns = messages[:num_system], messages[num_system:]

    def encode_without(num_turns: int) -> list[int]:
        return encode([*system, *turns[2 * num_turns :]])

    num_dropped, max_dropped = 0, (len(turns) - 1) // 2
    ids = encode_without(0)
    if len(ids) + room > num_positions and max_dropped:
        # A bisection: encoding is slow, and fewer turns have fewer ids.
        num_dropped = 1 + bisect_left(
            range(1, max_dropped),
            True,
            key=lambda number: len(encode_without(number)) + room <= num_positions,
        )
        ids = encode_without(num_dropped)
    if len(ids) >= num_positions:
        raise UserError(
            f"the prompt has {len(ids)} tokens and leaves no room for an answer: the model reads "
            f"at most {num_positions}; shorten it"
        )
    return Prompt(ids, num_dropped)
