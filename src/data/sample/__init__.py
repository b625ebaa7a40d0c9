"""The embedded corpus: conversations small enough to read, enough to learn from."""

from typing import Any

from src.data.sample.conversations import conversations
from src.data.sample.questions import normalised, questions

Row = dict[str, Any]


def sample_rows() -> list[Row]:
    """Return all rows."""
    seen = {}
    for question in questions():
        other = seen.setdefault(normalised(question.prompt), question)
        if other is not question:
            raise ValueError(
                f"{question.prompt!r} ({question.family}) asks the same "
                f"as {other.prompt!r} ({other.family})"
            )
    rows = []
    for draft in conversations():
        messages = [{"role": "system", "content": draft.system}] if draft.system else []
        for prompt, response in draft.turns:
            messages.append({"role": "user", "content": prompt})
            messages.append({"role": "assistant", "content": response})
        rows.append({"messages": messages, "family": draft.family, "split": draft.split})
    return rows
