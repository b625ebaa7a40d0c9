"""The chat template: a conversation becomes token ids and, for each, whether it is supervised.

One conversation with two turns and a system text::

    {system}\\n\\n### Prompt: {prompt}\\n### Response: {response}<|endoftext|>### Prompt: ...
    └──────────────── context ───────────────────┘└── supervised ───────────┘└─ context

An opening text of the assistant stands as a response whose prompt is empty; it is context, as are
the responses that are only read.

Context and response are encoded as separate segments, so the boundary between them is exact: the
tokenizer cannot merge across it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.data.conversation import Conversation
from src.data.tokenizer import END_OF_TEXT, Tokenizer
from src.data.words import WordEncoder
from src.files import atomic

PROMPT_HEADER = "### Prompt: "
RESPONSE_HEADER = "### Response:"
TEMPLATE_FILE = "chat_template.jinja"  # in a model folder

# The same template for readers of a Hugging Face folder, for messages in any order: system texts
# go to the front, neighbours of one role are joined, an opening text has an empty prompt.
_TEXT = (  # of a message: a text, a list of text parts, or none
    "{% if message['content'] is string %}{% set now.text = message['content'] | trim %}"
    "{% else %}{% set now.text = '' %}"
    "{% for part in message['content'] or [] %}"
    "{% set now.text = now.text + (part['text'] or '') %}"
    "{% endfor %}{% set now.text = now.text | trim %}{% endif %}"
)
JINJA = (
    "{% set now = namespace(role='', text='') %}"
    "{% for message in messages %}{% if message['role'] in ['system', 'developer'] %}"
    + _TEXT
    + "{% if now.text %}{{ now.text + '\n\n' }}{% endif %}"
    "{% endif %}{% endfor %}"
    "{% for message in messages %}{% if message['role'] in ['user', 'assistant'] %}"
    + _TEXT
    + "{% if now.text %}"
    "{% if message['role'] == now.role %}{{ '\n\n' + now.text }}"
    "{% elif message['role'] == 'user' %}"
    "{% if now.role %}{{ '" + END_OF_TEXT + "' }}{% endif %}"
    "{{ '" + PROMPT_HEADER + "' + now.text }}"
    "{% else %}"
    "{% if not now.role %}{{ '" + PROMPT_HEADER + "' }}{% endif %}"
    "{{ '\n" + RESPONSE_HEADER + " ' + now.text }}"
    "{% endif %}{% set now.role = message['role'] %}"
    "{% endif %}{% endif %}{% endfor %}"
    "{% if now.role == 'user' %}{{ '\n" + RESPONSE_HEADER + "' }}"
    "{% elif now.role %}{{ '" + END_OF_TEXT + "' }}{% endif %}"
)
# Model folders of earlier versions hold this text; turns that alternate become the same by it.
EARLIER_JINJA = (
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
    """``input_ids`` (L,) and ``supervised`` (L,): is this token taught? See ``Examples``."""

    input_ids: np.ndarray
    supervised: np.ndarray


@dataclass(frozen=True)
class Examples:
    """Examples end to end: ``input_ids`` and ``supervised`` (tokens,).

    ``supervised`` is bool: is this token taught? Where prompts are scored too, it is uint8:
    ``RESPONSE``, ``PROMPT``, or 0 for neither. ``offsets`` (examples + 1,) int64: where each
    starts, and the number of tokens.
    """

    input_ids: np.ndarray
    supervised: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each example (examples,), its end token included."""
        return np.diff(self.offsets)

    def example(self, index: int) -> Example:
        """Return example ``index``."""
        window = slice(self.offsets[index], self.offsets[index + 1])
        return Example(self.input_ids[window], self.supervised[window])

    def take(self, mask: np.ndarray) -> "Examples":
        """Return the examples for which ``mask`` (examples,) is true."""
        if mask.all():
            return self
        tokens = np.repeat(mask, self.lengths)
        offsets = np.concatenate([[0], np.cumsum(self.lengths[mask])])
        return Examples(self.input_ids[tokens], self.supervised[tokens], offsets)

    def without(self, tokens: np.ndarray) -> "Examples":
        """Return the examples without the tokens of these numbers, each once."""
        if not len(tokens):
            return self
        kept = np.ones(len(self.input_ids), dtype=bool)
        kept[tokens] = False
        before = np.concatenate([[0], np.cumsum(kept)])
        return Examples(self.input_ids[kept], self.supervised[kept], before[self.offsets])


def _context(prompt: str, system: str) -> str:
    return (f"{system}\n\n" if system else "") + f"{PROMPT_HEADER}{prompt}\n"


RESPONSE, PROMPT = 1, 2  # what is taught in full, and what is scored at a weight of its own

# Which pieces of a turn are taught; the end token belongs to the last.
# responses: each response and its end token. article: also the constant RESPONSE_HEADER, as in the
# article (three tokens an example that are always right after a few steps).
TAUGHT = {"responses": np.array([False, True]), "article": np.array([False, True, True])}
SUPERVISE_MODES = tuple(TAUGHT)


def with_prompts(supervise: str) -> str:
    """Return the mode that marks the tokens of prompts, too, to be scored in training."""
    return f"{supervise} and prompts"


TAUGHT |= {
    with_prompts(mode): np.where(TAUGHT[mode], RESPONSE, PROMPT).astype(np.uint8)
    for mode in SUPERVISE_MODES
}


def _responses(conversation: Conversation) -> tuple[tuple[str, str], ...]:
    """Return the turns; before them the opening text, whose prompt is empty."""
    opening = conversation.opening
    return (("", opening), *conversation.turns) if opening else conversation.turns


def _pieces(conversation: Conversation, supervise: str) -> Iterator[str]:
    system = conversation.system
    for prompt, response in _responses(conversation):
        if len(TAUGHT[supervise]) == 3:
            yield _context(prompt, system)
            yield RESPONSE_HEADER
        else:
            yield _context(prompt, system) + RESPONSE_HEADER
        yield f" {response}" if response else ""
        system = ""


def _taught(conversations: Sequence[Conversation], num_pieces: int) -> np.ndarray:
    """Return for each response whether it is taught, ``num_pieces`` times (pieces,)."""
    flags: list[bool] = []
    for conversation in conversations:
        if conversation.opening:
            flags.append(False)
        flags += conversation.taught or [True] * len(conversation.turns)
    return np.repeat(np.array(flags, dtype=bool), num_pieces)


def encode_examples(
    conversations: Sequence[Conversation], encoder: WordEncoder, supervise: str
) -> Examples:
    """Return the examples of ``conversations``.

    >>> # "### Prompt: Hello\\n### Response: Hi<|endoftext|>" with GPT-2's tokenizer:
    >>> # input_ids   21017 45965 25 18435 198 21017 18261 25 15902 50256
    >>> # responses       0     0  0     0   0     0     0  0     1     1
    >>> # article         0     0  0     0   0     1     1  1     1     1
    >>> # with_prompts("responses"):
    >>> #                 2     2  2     2   2     2     2  2     1     1

    A response that is only read stays so: it is no prompt.
    """
    taught = TAUGHT[supervise]
    pieces = encoder.encode_batch([p for c in conversations for p in _pieces(c, supervise)])
    end = np.array([encoder.tokenizer.end_id], encoder.dtype).tobytes()
    last = slice(len(taught) - 1, None, len(taught))
    pieces[last] = [piece + end for piece in pieces[last]]
    num_pieces = np.array(
        [0, *(len(taught) * (len(c.turns) + bool(c.opening)) for c in conversations)]
    )
    lengths = np.fromiter(map(len, pieces), np.int64, len(pieces)) // encoder.dtype.itemsize
    ends = np.concatenate([[0], np.cumsum(lengths)])  # of each piece
    supervised = np.resize(taught, len(pieces))
    if any(c.taught or c.opening for c in conversations):
        only_read = ~_taught(conversations, len(taught))
        supervised[only_read & (supervised == RESPONSE)] = 0
    return Examples(
        input_ids=np.frombuffer(b"".join(pieces), encoder.dtype),
        supervised=np.repeat(supervised, lengths),
        offsets=ends[np.cumsum(num_pieces)],
    )


def encode_prompt(
    tokenizer: Tokenizer,
    prompt: str,
    history: Sequence[tuple[str, str]] = (),
    system: str = "",
    opening: str = "",
) -> list[int]:
    """Return the ids after which the model writes its response to ``prompt``."""
    ids: list[int] = []
    if history or opening:
        turns = tuple((question.strip(), reply.strip()) for question, reply in history)
        past = Conversation(turns, system, opening)
        ids = encode_examples([past], WordEncoder(tokenizer), "responses").input_ids.tolist()
    context = _context(prompt.strip(), "" if ids else system)
    return ids + tokenizer.encode(context + RESPONSE_HEADER)


def reply_ids(reply: str, ended: bool, tokenizer: Tokenizer) -> list[int]:
    """Return the ids of a reply that follows ``encode_prompt``; one that was cut has no end."""
    ids = tokenizer.encode(f" {reply}") if reply else []
    return [*ids, tokenizer.end_id] if ended else ids


def jinja(end_token: str = END_OF_TEXT) -> str:
    """Return the template in Jinja, for a tokenizer with this end token."""
    return _with_end(JINJA, end_token)


def is_ours(template: str, end_token: str = END_OF_TEXT) -> bool:
    """Whether a template in Jinja is the one that we train with, as written now or earlier."""
    return template in (jinja(end_token), _with_end(EARLIER_JINJA, end_token))


def _with_end(template: str, end_token: str) -> str:
    return template.replace(END_OF_TEXT, end_token.replace("\\", "\\\\").replace("'", "\\'"))


def save_template(folder: Path, end_token: str = END_OF_TEXT) -> None:
    """Write ``chat_template.jinja``, which transformers, vLLM and llama.cpp read."""
    atomic.write_text(folder / TEMPLATE_FILE, jinja(end_token))
