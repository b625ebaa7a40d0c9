"""Conversations as one text, as HH-RLHF has them (Bai et al., arXiv:2204.05862).

\\n\\nHuman: Hi!\\n\\nAssistant: Hello.\\n\\nHuman: Who are you?\\n\\nAssistant: A model.
"""

import re

SPEAKER = re.compile(r"(?:\A|\n\n)[ \t]*(?P<role>Human|Assistant):")
ROLES = {"Human": "user", "Assistant": "assistant"}


def read_transcript(text: str) -> list[dict[str, str]] | None:
    """Return the messages of a transcript, stripped, the last perhaps empty; None: it is none."""
    text = text.strip()
    found = list(SPEAKER.finditer(text))
    if not found or found[0].start() or {match["role"] for match in found} != ROLES.keys():
        return None
    ends = [*(match.start() for match in found[1:]), len(text)]
    return [
        {"role": ROLES[match["role"]], "content": text[match.end() : end].strip()}
        for match, end in zip(found, ends, strict=True)
    ]
