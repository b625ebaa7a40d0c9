"""Who speaks: the names under which data sets and programs know the roles."""

import re
from functools import lru_cache
from typing import Any, Literal

from src.data.content import UnusableRow, shown

Role = Literal["system", "user", "assistant", "tool_call", "tool_result"]

# Written without capitals, digits and punctuation: "GPT-4" is gpt, "Human 1" is human.
NAMES: dict[Role, tuple[str, ...]] = {
    "system": (
        "system",
        "developer",
        "sys",
        "systemprompt",
        "systemmessage",
        "chatmessagesystem",
    ),
    "user": (
        "user",
        "human",
        "prompter",
        "usr",
        "enduser",
        "customer",
        "client",
        "person",
        "questioner",
        "asker",
        "visitor",
        "student",
        "patient",
        "seeker",
        "humanmessage",
        "humanmessagechunk",
        "usermessage",
        "question",
        "prompt",
        "query",
        "instruction",
        "input",
        "request",
    ),
    "assistant": (
        "assistant",
        "ai",
        "bot",
        "gpt",
        "chatgpt",
        "model",
        "chatbot",
        "llm",
        "agent",
        "assistantmessage",
        "aimessage",
        "aimessagechunk",
        "aiassistant",
        "virtualassistant",
        "languagemodel",
        "machine",
        "robot",
        "teacher",
        "tutor",
        "doctor",
        "therapist",
        "counselor",
        "supporter",
        "expert",
        "answerer",
        "answer",
        "response",
        "output",
        "reply",
        "completion",
        "bing",
        "bard",
        "claude",
        "gemini",
        "llama",
        "mistral",
        "deepseek",
        "qwen",
    ),
    "tool_call": ("toolcall", "toolcalls", "functioncall", "functioncalls", "tooluse"),
    "tool_result": (
        "tool",
        "tools",
        "function",
        "ipython",
        "observation",
        "toolresponse",
        "toolresult",
        "tooloutput",
        "toolmessage",
        "functionresponse",
        "functionresult",
        "functionoutput",
        "functionmessage",
        "functioncalloutput",
        "environment",
        "codeinterpreter",
    ),
}
ROLES: dict[str, Role] = {name: role for role, names in NAMES.items() for name in names}
INITIALS: dict[str, Role] = {"q": "user", "a": "assistant"}
MODELS = ("gpt", "chatgpt", "claude", "gemini", "llama", "mistral", "deepseek", "qwen", "assistant")


def plain(name: str) -> str:
    """Return a name without capitals, spaces and punctuation: "System Prompt" is systemprompt."""
    return re.sub(r"[\W_]+", "", name).casefold()


@lru_cache(maxsize=4096)
def _known(name: str) -> Role | None:
    bare = re.sub(r"\d+", "", plain(name))
    if bare in ROLES:
        return ROLES[bare]
    return "assistant" if bare.startswith(MODELS) else None


def known_role(name: Any) -> Role | None:
    """Return the role of this name; None: it is not one."""
    return _known(name) if isinstance(name, str) and len(name) <= 40 else None


def role_of(value: Any) -> Role:
    """Return the role that a message names; ``{"role": "user"}`` names one too.

    Raises:
        UnusableRow: the role is not known.
    """
    name = value.get("role") if isinstance(value, dict) else value
    role = known_role(name) or INITIALS.get(str(name).strip().rstrip(":").casefold())
    if role is None:
        raise UnusableRow("unknown_role", f"role {shown(value)}")
    return role
