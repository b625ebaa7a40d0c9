"""What one message says: text, a list of text parts, a number or nothing."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

TEXT_PARTS = {"text", "input_text", "output_text", "refusal", "message"}
THOUGHTS = {"thinking", "reasoning", "redacted_thinking", "thought"}
TOOL_PARTS = {
    "tool_use": "tool_call",
    "tool_call": "tool_call",
    "function_call": "tool_call",
    "server_tool_use": "tool_call",
    "tool_result": "tool_result",
    "tool_response": "tool_result",
    "function_response": "tool_result",
    "function_call_output": "tool_result",
    "web_search_tool_result": "tool_result",
}
MEDIA = ("image", "audio", "video", "file", "document")  # how the names of such parts begin or end
NESTED_TEXTS = ("text", "content", "value", "parts", "refusal")  # the keys of an object of text


class UnusableRow(Exception):
    """A row without a usable conversation.

    Args:
        reason: the name under which the report counts it.
        found: what was found there, for a person.
    """

    def __init__(self, reason: str, found: str = ""):
        super().__init__(reason)
        self.reason = reason
        self.found = found


def shown(value: Any, most: int = 60) -> str:
    """Return a value on one short line, as JSON where it can be."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = repr(value)
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= most else f"{text[:most]}..."


def listed(names: Iterable[Any], most: int = 12) -> str:
    """Return names on one short line."""
    texts = [" ".join(str(name).split())[:60] for name in names]
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")


def content_text(value: Any, unused: list[str]) -> str:
    """Return the stripped text of a content; the names of parts without text go to ``unused``.

    Raises:
        UnusableRow: it holds an image, a tool call, no text, or half a surrogate pair.
    """
    if value is None:
        return ""
    text = value if type(value) is str else _joined(value, unused)
    if not text.isascii() and not is_unicode(text):
        raise UnusableRow("invalid_unicode", shown(text))
    return text.strip()


def is_unicode(text: str) -> bool:
    """Return whether ``text`` is free of halves of surrogate pairs."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _joined(value: Any, unused: list[str]) -> str:
    if isinstance(value, str):
        return str(value)
    if isinstance(value, (bool, int, float)):
        return "" if value != value else json.dumps(value)  # NaN is how tables write nothing
    if isinstance(value, Mapping):
        return _part(value, unused)
    if isinstance(value, (list, tuple)):
        return "".join(_joined(part, unused) for part in value if part is not None)
    if type(value).__module__ in ("decimal", "datetime"):  # as Parquet has them
        return str(value)
    raise UnusableRow("not_text", shown(value))


def _part(part: Mapping[str, Any], unused: list[str]) -> str:
    kind = part.get("type")
    name = kind.casefold() if isinstance(kind, str) else ""
    if name in TOOL_PARTS:
        raise UnusableRow(TOOL_PARTS[name], f"a part of type {name}")
    for key in part:
        if part[key] and (kind := TOOL_PARTS.get(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", key).lower())):
            raise UnusableRow(kind, f"a part {shown(part)}")
    if name in THOUGHTS:
        unused.append(f"part {name}")
        return ""
    for word in (name, *part):
        medium = next((m for m in MEDIA if word.lower().removeprefix("input_").startswith(m)), None)
        if medium and part.get(word, word) and name not in TEXT_PARTS:
            raise UnusableRow(medium, f"a part {shown(part)}")
    for key in NESTED_TEXTS:
        if part.get(key) is not None:
            return _joined(part[key], unused)
    if name in TEXT_PARTS:
        return ""
    raise UnusableRow("not_text", shown(part))
