"""The chat template: a conversation becomes token ids and, for each, whether it is supervised.

One conversation with two turns and a system text::

    {system}\\n\\n### Prompt: {prompt}\\n### Response: {response}<|endoftext|>### Prompt: ...
    └──────────────── context ───────────────────┘└── supervised ───────────┘└─ context

Context and response are encoded as separate segments, so that the boundary between what is read
and what is taught is exact whatever the tokenizer merges.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from src.data.conversation import Conversation
from src.data.tokenizer import END_OF_TEXT, Tokenizer

PROMPT_HEADER = "### Prompt: "
RESPONSE_HEADER = "### Response:"
TEMPLATE_FILE = "chat_template.jinja"  # in a model folder

# responses: each response and its end token. blog: also the constant RESPONSE_HEADER, as the
# article scored it (three tokens an example that are always right after a few steps).
SUPERVISE_MODES = ("responses", "blog")

# The same template for everyone who reads a Hugging Face folder.
JINJA = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' and message['content'] | trim %}"
    "{{ message['content'] | trim + '\\n\\n' }}"
    "{% elif message['role'] == 'user' %}"
    "{{ '" + PROMPT_HEADER + "' + message['content'] | trim + '\\n" + RESPONSE_HEADER + "' }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ ' ' + message['content'] | trim + '" + END_OF_TEXT + "' }}"
    "{% endif %}{% endfor %}"
)


@dataclass(frozen=True)
class Example:
    """``input_ids`` (L,) int64 and ``supervised`` (L,) bool: is this token taught?"""

    input_ids: np.ndarray
    supervised: np.ndarray


def _context(prompt: str, system: str) -> str:
    return (f"{system}\n\n" if system else "") + f"{PROMPT_HEADER}{prompt}\n"


def _segments(conversation: Conversation, supervise: str) -> list[tuple[str, bool]]:
    """Text pieces in order; an end token follows each piece that is a response."""
    segments = []
    for number, (prompt, response) in enumerate(conversation.turns):
        context = _context(prompt, "" if number else conversation.system)
        if supervise == "blog":
            segments += [(context, False), (RESPONSE_HEADER, True), (f" {response}", True)]
        else:
            segments += [(context + RESPONSE_HEADER, False), (f" {response}", True)]
    return segments


def encode_conversations(
    conversations: Iterable[Conversation],
    tokenizer: Tokenizer,
    supervise: str,
    batch_size: int = 1024,
) -> Iterator[Example]:
    """Yield the example of each conversation, encoded in batches of ``batch_size``.

    >>> # "### Prompt: Hello\\n### Response: Hi<|endoftext|>" with GPT-2's tokenizer:
    >>> # input_ids   21017 45965 25 18435 198 21017 18261 25 15902 50256
    >>> # responses       0     0  0     0   0     0     0  0     1     1
    >>> # blog            0     0  0     0   0     1     1  1     1     1
    """
    assert supervise in SUPERVISE_MODES, supervise
    per_turn = 3 if supervise == "blog" else 2
    conversations = iter(conversations)
    while batch := list(islice(conversations, batch_size)):
        segments = [segment for c in batch for segment in _segments(c, supervise)]
        ids = iter(tokenizer.encode_batch([text for text, _ in segments]))
        flags = iter(supervised for _, supervised in segments)
        for conversation in batch:
            tokens: list[int] = []
            taught: list[bool] = []
            for number in range(per_turn * len(conversation.turns)):
                piece, flag = next(ids), next(flags)
                if number % per_turn == per_turn - 1:
                    piece = [*piece, tokenizer.end_id]
                tokens += piece
                taught += [flag] * len(piece)
            yield Example(np.array(tokens), np.array(taught))


def encode_prompt(
    tokenizer: Tokenizer,
    prompt: str,
    history: Sequence[tuple[str, str]] = (),
    system: str = "",
) -> list[int]:
    """Return the ids after which the model writes its response to ``prompt``."""
    ids: list[int] = []
    if history:
        turns = tuple((asked.strip(), replied.strip()) for asked, replied in history)
        past = Conversation(turns, system)
        ids = next(encode_conversations([past], tokenizer, "responses")).input_ids.tolist()
    context = _context(prompt.strip(), "" if history else system)
    return ids + tokenizer.encode(context + RESPONSE_HEADER)


def save_template(folder: Path) -> None:
    """Write ``chat_template.jinja``, which transformers, vLLM and llama.cpp read."""
    (folder / TEMPLATE_FILE).write_text(JINJA)
