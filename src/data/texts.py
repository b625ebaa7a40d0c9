"""A whole conversation in one text, in the forms in which people keep it, becomes messages.

The forms, by their headers::

    <|im_start|>user ... <|im_end|>           ChatML; and the headers of Llama 3, Gemma, Zephyr
    [INST] ... [/INST] ...                    Llama 2
    ### Human: ... ### Assistant: ...         one line or several; ### Instruction: too, and ours
    Human: ... / Assistant: ...               each at the start of a line, or all on one line
"""

import re
from typing import NamedTuple

from src.data.roles import known_role

NAMES = (
    r"Human|User|Prompter|Prompt|Instruction|Question|Query|Customer|Patient|Student|Q|"
    r"Assistant|AI|Bot|ChatGPT|GPT|Model|Response|Answer|Output|Chatbot|Agent|Doctor|Teacher|A|"
    r"System|Input|Context|Function Response|Observation|Tool"
)
TAG_NAMES = r"system|user|assistant|human|bot|prompter|model|gpt|tool|observation|developer"
SPOKEN = "Human|User|Assistant|AI|Bot|Chatbot|System|Question|Answer"
HEADERS = tuple(
    re.compile(pattern)
    for pattern in (
        r"<\|im_start\|>[ \t]*(?P<role>[\w-]+)(?:[ \t]+name=[^\n]*)?(?:<\|im_sep\|>)?",
        r"<\|start_header_id\|>\s*(?P<role>[\w-]+)\s*<\|end_header_id\|>",
        r"<start_of_turn>\s*(?P<role>[\w-]+)",
        rf"(?i)<[|｜](?P<role>{TAG_NAMES})[|｜]>:?",
        rf"(?i)<(?P<role>{TAG_NAMES})>[ \t]*:",
        rf"(?i)\[\|(?P<role>{TAG_NAMES}|AI)\|\]",
        rf"(?i)###[ \t]*(?P<role>{NAMES})[ \t]*(?::|(?=\n))",
        rf"(?im)^[ \t]*##?[ \t]*(?P<role>{NAMES})[ \t]*(?::|(?=\n))",
        rf"(?im)^[ \t]*\*\*(?P<role>{NAMES})[ \t]*(?::[ \t]*\*\*|\*\*[ \t]*:)",
        r"(?m)(?:^|(?<=>))GPT4(?: Correct)? (?P<role>User|Assistant):",
        rf"(?im)^[ \t]*(?P<role>{NAMES})[ \t]*:",
        rf"(?:^|(?<=\s)|(?<=>))(?P<role>{NAMES.upper()}):",
        r"(?i)<(?P<role>system|user|assistant)>",
    )
)
# All on one line, in a text that begins so.
IN_LINE = re.compile(rf"(?:\A|(?<=\s))(?P<role>{SPOKEN}):(?=\s)")
END = (
    r"<\|endoftext\|>|<\|im_end\|>|<\|eot_id\|>|<\|end_of_text\|>|<\|begin_of_text\|>|<\|end\|>|"
    r"<end_of_turn>|<\|end_of_turn\|>|</?s>|<[be]os>|<｜(?:begin|end)▁of▁sentence｜>|"
    r"</(?:system|user|assistant)>"
)
ENDS = re.compile(rf"(?:\s*(?:{END}))*\s*\Z")
STARTS = re.compile(rf"\A\s*(?:(?:{END})\s*)*")
LLAMA = re.compile(r"\[INST\](.*?)\[/INST\](.*?)(?=(?:<s>\s*)?\[INST\]|\Z)", re.S)
LLAMA_SYSTEM = re.compile(r"\A\s*<<SYS>>(.*?)<</SYS>>", re.S)
EXTRAS = {"input", "context"}  # they follow their instruction on a new line
FREE = {"instruction", "question", "prompt"}  # labels that an extra can follow


class _Header(NamedTuple):
    label: str
    role: str | None
    start: int
    end: int


def read_text(text: str) -> list[dict[str, str]] | None:
    """Return the messages that ``text`` holds; None: it is in no form that we know."""
    if "[INST]" in text and (messages := _llama(text)):
        return messages
    for pattern in HEADERS:
        if messages := _by_headers(text, pattern):
            return messages
    return _by_headers(text.strip(), IN_LINE) if IN_LINE.match(text.strip()) else None


def _by_headers(text: str, pattern: re.Pattern[str]) -> list[dict[str, str]] | None:
    headers = [
        _Header(label, _role(label), match.start(), match.end())
        for match in pattern.finditer(text)
        for label in [match["role"].casefold()]
    ]
    # A text keeps to its first two labels: "Answer:" in someone's response is no header.
    user = next((header.label for header in headers if header.role == "user"), None)
    assistant = next((header.label for header in headers if header.role == "assistant"), None)
    if user is None or assistant is None:
        return None
    kept = {user, assistant}
    headers = [
        header
        for header in headers
        if header.label in kept
        or header.role not in ("user", "assistant")
        or (header.label in EXTRAS and user in FREE)
    ]
    messages = [{"role": "system", "content": _bare(text[: headers[0].start])}]
    ends = [*(header.start for header in headers[1:]), len(text)]
    for header, end in zip(headers, ends, strict=True):
        content = _bare(text[header.end : end])
        if header.label in EXTRAS and header.label not in kept:
            messages[-1]["content"] = f"{messages[-1]['content']}\n{content}".strip()
        else:
            messages.append({"role": header.role or header.label, "content": content})
    spoken = [message for message in messages if message["role"] != "system"]
    if spoken[0] == {"role": "user", "content": ""}:  # so our template writes an opening text
        messages.remove(spoken[0])
    return messages


def _role(label: str) -> str | None:
    return {"q": "user", "a": "assistant", "context": "user"}.get(label) or known_role(label)


def _bare(text: str) -> str:
    """Return ``text`` without the special tokens at its ends."""
    return ENDS.sub("", STARTS.sub("", text)).strip()


def _llama(text: str) -> list[dict[str, str]] | None:
    messages: list[dict[str, str]] = []
    for prompt, response in LLAMA.findall(text):
        if not messages and (system := LLAMA_SYSTEM.match(prompt)):
            messages.append({"role": "system", "content": system[1].strip()})
            prompt = prompt[system.end() :]
        messages.append({"role": "user", "content": prompt.strip()})
        messages.append({"role": "assistant", "content": _bare(response)})
    return messages or None
