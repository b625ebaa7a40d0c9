"""What is scored of a held-out conversation: its last reply, after the turns that came before.

A person meets a model in the middle of a conversation, so the earlier turns are there, with the
replies of the reference: what is measured is this reply, not the luck of those before it. The
figures by turn tell how a model answers a first question, a second and so on.
"""

from collections.abc import Iterator, Sequence

from src.data.conversation import Conversation
from src.talk.messages import Message


def question(conversation: Conversation) -> list[Message]:
    """Return the messages that the last reply of `conversation` answers."""
    messages = [Message("system", conversation.system)] if conversation.system else []
    if conversation.opening:
        messages.append(Message("assistant", conversation.opening))
    for turn in conversation.turns[:-1]:
        messages += [Message("user", turn[0]), Message("assistant", turn[1])]
    return [*messages, Message("user", conversation.turns[-1][0])]


def reference(conversation: Conversation) -> str:
    """Return the last reply of `conversation`."""
    return conversation.turns[-1][1]


def labels(conversation: Conversation) -> list[str]:
    """Return the names under which the last reply counts, beside the figure over all.

    `turn_2` if it is the second; `system` if there is a system text; the family, and what stands
    before its slash: `follow_up/recall` counts for `follow_up` too.
    """
    family = conversation.family
    names = [f"turn_{len(conversation.turns)}", family, family.partition("/")[0]]
    if conversation.system:
        names.append("system")
    return [name for name in dict.fromkeys(names) if name]


def taught(conversations: Sequence[Conversation]) -> Iterator[tuple[str, str]]:
    """Yield all that is said before each reply, as one text, and the reply."""
    for conversation in conversations:
        for number in range(1, len(conversation.turns) + 1):
            part = conversation._replace(turns=conversation.turns[:number])
            yield text(part), reference(part)


def text(conversation: Conversation) -> str:
    """Return all that is said before the last reply, as one text."""
    return "\n".join(message.content for message in question(conversation))
