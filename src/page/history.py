"""A browser's record of the conversation becomes messages; a browser can send anything."""

from collections.abc import Sequence

from src.talk.messages import Message


def complete_turns(messages: Sequence[Message]) -> list[Message]:
    """Return the turns that have an answer; a question that failed has none."""
    turns: list[Message] = []
    for message in messages:
        if message.role == "user" and turns and turns[-1].role == "user":
            turns.pop()
        if message.content.strip():
            turns.append(message)
    if turns and turns[-1].role == "user":
        turns.pop()
    return turns


def newest_turns(messages: Sequence[Message], num_characters: int) -> Sequence[Message]:
    """Return the question and the newest turns before it, ``num_characters`` at most in all."""
    room = num_characters - len(messages[-1].content)
    for start in range(len(messages) - 3, -1, -2):
        room -= sum(len(message.content) for message in messages[start : start + 2])
        if room < 0:
            return messages[start + 2 :]
    return messages
