"""The chat template: a conversation becomes token ids and, for each, whether it is supervised.

One conversation with two turns and a system text::

    {system}\\n\\n### Prompt: {prompt}\\n### Response: {response}<|endoftext|>### Prompt: ...
    └──────────────── context ───────────────────┘└── supervised ───────────┘└─ context

Context and response are encoded as separate segments, so the boundary between them is exact: the
tokenizer cannot merge across it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src import atomic
from src.data.conversation import Conversation
from src.data.tokenizer import END_OF_TEXT, Tokenizer
from src.data.words import WordEncoder

PROMPT_HEADER = "### Prompt: "
RESPONSE_HEADER = "### Response:"
TEMPLATE_FILE = "chat_template.jinja"  # in a model folder

# The same template for readers of a Hugging Face folder.
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
    """``input_ids`` (L,) and ``supervised`` (L,) bool: is this token taught?"""

    input_ids: np.ndarray
    supervised: np.ndarray


@dataclass(frozen=True)
class Examples:
    """Examples end to end: ``input_ids`` and ``supervised`` (tokens,).

    ``offsets`` (examples + 1,) int64: where each starts, and the number of tokens.
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


def _context(prompt: str, system: str) -> str:
    return (f"{system}\n\n" if system else "") + f"{PROMPT_HEADER}{prompt}\n"


# Which pieces of a turn are taught; the end token belongs to the last.
# responses: each response and its end token. article: also the constant RESPONSE_HEADER, as in the
# article (three tokens an example that are always right after a few steps).
TAUGHT = {"responses": (False, True), "article": (False, True, True)}
SUPERVISE_MODES = tuple(TAUGHT)


def _pieces(conversation: Conversation, supervise: str) -> Iterator[str]:
    system = conversation.system
    for prompt, response in conversation.turns:
        if supervise == "article":
            yield _context(prompt, system)
            yield RESPONSE_HEADER
        else:
            yield _context(prompt, system) + RESPONSE_HEADER
        yield f" {response}"
        system = ""


def encode_examples(
    conversations: Sequence[Conversation], encoder: WordEncoder, supervise: str
) -> Examples:
    """Return the examples of ``conversations``.

    >>> # "### Prompt: Hello\\n### Response: Hi<|endoftext|>" with GPT-2's tokenizer:
    >>> # input_ids   21017 45965 25 18435 198 21017 18261 25 15902 50256
    >>> # responses       0     0  0     0   0     0     0  0     1     1
    >>> # article         0     0  0     0   0     1     1  1     1     1
    """
    taught = TAUGHT[supervise]
    pieces = encoder.encode_batch([p for c in conversations for p in _pieces(c, supervise)])
    end = np.array([encoder.tokenizer.end_id], encoder.dtype).tobytes()
    last = slice(len(taught) - 1, None, len(taught))
    pieces[last] = [piece + end for piece in pieces[last]]
    num_pieces = np.array([0, *(len(taught) * len(c.turns) for c in conversations)])
    lengths = np.fromiter(map(len, pieces), np.int64, len(pieces)) // encoder.dtype.itemsize
    ends = np.concatenate([[0], np.cumsum(lengths)])  # of each piece
    return Examples(
        input_ids=np.frombuffer(b"".join(pieces), encoder.dtype),
        supervised=np.repeat(np.resize(taught, len(pieces)), lengths),
        offsets=ends[np.cumsum(num_pieces)],
    )


def encode_prompt(
    tokenizer: Tokenizer,
    prompt: str,
    history: Sequence[tuple[str, str]] = (),
    system: str = "",
) -> list[int]:
    """Return the ids after which the model writes its response to ``prompt``."""
    ids: list[int] = []
    if history:
        turns = tuple((question.strip(), reply.strip()) for question, reply in history)
        past = Conversation(turns, system)
        ids = encode_examples([past], WordEncoder(tokenizer), "responses").input_ids.tolist()
    context = _context(prompt.strip(), "" if history else system)
    return ids + tokenizer.encode(context + RESPONSE_HEADER)


def jinja(end_token: str = END_OF_TEXT) -> str:
    """Return the template in Jinja, for a tokenizer with this end token."""
    return JINJA.replace(END_OF_TEXT, end_token.replace("\\", "\\\\").replace("'", "\\'"))


def save_template(folder: Path, end_token: str = END_OF_TEXT) -> None:
    """Write ``chat_template.jinja``, which transformers, vLLM and llama.cpp read."""
    atomic.write_text(folder / TEMPLATE_FILE, jinja(end_token))
