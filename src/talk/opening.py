"""What stands before the first question: a system text, if the model's template has a place."""

from src.errors import UserError
from src.talk.assistant import Assistant
from src.talk.messages import Message, check_messages


def opening(assistant: Assistant, system: str | None) -> list[Message]:
    """Return the messages before the first question: ``system``, unless it is empty.

    Raises:
        UserError: it is not valid Unicode, or the model's template leaves it out.
    """
    if system is None or not system.strip():
        return []
    question = Message("user", "?")
    messages = [Message("system", system), question]
    check_messages(messages)
    if assistant.template(messages) == assistant.template([question]):
        raise UserError("system: this model's chat template has no place for a system text")
    return messages[:1]
