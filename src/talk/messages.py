"""A conversation as it is told to a model: messages in, token ids in, the oldest turns left out."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from src.errors import UserError

Role = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant")


@dataclass(frozen=True)
class Message:
    """What one side said."""

    role: Role
    content: str


@dataclass(frozen=True)
class Fitted:
    """``ids`` that the model reads, and how many of the oldest turns had no room there."""

    ids: list[int]
    num_dropped_turns: int


def check_messages(messages: Sequence[Message]) -> None:
    """Check that a reply can follow: an optional system text, then turns, a question at the end.

    Raises:
        UserError: names the message, by its number from 1, and what is wrong with it.
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
) -> Fitted:
    """Return the ids of ``messages``, without the oldest turns that leave a reply too little room.

    Turns are dropped whole, the system text never, until ``max_new_tokens`` or a quarter of the
    model's positions, whichever is less, are free for the reply.

    Args:
        messages: as ``check_messages`` allows.
        encode: the chat template.
        num_positions: how many the model has.
        max_new_tokens: the most that the reply may have.

    Raises:
        UserError: the last question alone leaves no position for a reply.
    """
    wanted = min(max_new_tokens, max(1, num_positions // 4))
    num_system = int(messages[0].role == "system")
    system, turns = messages[:num_system], messages[num_system:]

    def without(num_dropped: int) -> list[int]:
        return encode([*system, *turns[2 * num_dropped :]])

    num_dropped, most = 0, (len(turns) - 1) // 2
    ids = without(0)
    if len(ids) + wanted > num_positions and most:
        # Bisected, for encoding is what costs: each turn less makes it shorter.
        dropped = range(1, most)
        num_dropped = 1 + bisect_left(
            dropped, True, key=lambda number: len(without(number)) + wanted <= num_positions
        )
        ids = without(num_dropped)
    if len(ids) >= num_positions:
        raise UserError(
            f"the prompt has {len(ids)} tokens and leaves no room for an answer: the model reads "
            f"at most {num_positions}; shorten it"
        )
    return Fitted(ids, num_dropped)
