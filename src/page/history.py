"""A browser's record of the conversation becomes messages; a browser can send anything."""

from collections.abc import Sequence
from typing import Any

from src.talk.messages import Message


def complete_turns(history: Sequence[dict[str, Any]]) -> list[Message]:
    """Return the turns that have an answer; a question that failed has none."""
    messages: list[Message] = []
    for entry in history:
        message = Message(entry["role"], _text(entry["content"]))
        if message.role == "user" and messages and messages[-1].role == "user":
            messages.pop()
        if message.content.strip():
            messages.append(message)
    if messages and messages[-1].role == "user":
        messages.pop()
    return messages


def newest_turns(messages: Sequence[Message], num_characters: int) -> Sequence[Message]:
    """Return the question and the newest turns before it, ``num_characters`` at most in all."""
    room = num_characters - len(messages[-1].content)
    for start in range(len(messages) - 3, -1, -2):
        room -= sum(len(message.content) for message in messages[start : start + 2])
        if room < 0:
            return messages[start + 2 :]
    return messages


def _text(content: Any) -> str:
    """Return the text of a message in Gradio's format: a string, or a list of parts."""
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")
