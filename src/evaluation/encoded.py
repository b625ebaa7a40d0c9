"""The rows as a model's tokenizer sees them: ids, what is scored of them, and its bytes.

Shape letters: N rows, S scored tokens.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from src.data.conversation import Conversation
from src.data.corpus import Corpus
from src.data.template import RESPONSE_HEADER, encode_examples
from src.data.tokenizer import Tokenizer
from src.data.words import WordEncoder

ROWS_AT_A_TIME = 1024


@dataclass(frozen=True)
class Encoded:
    """Conversations as ids.

    Attributes:
        conversations: (N,) what they say.
        tokenizer: what encoded them.
        corpus: ids, scored tokens and offsets, none of them cut.
        header: tokens at the start of each response that are the template's, not the response's.
    """

    conversations: Sequence[Conversation]
    tokenizer: Tokenizer
    corpus: Corpus
    header: int

    @cached_property
    def key(self) -> str:
        """A hash of ids and scored tokens: equal for two models if their figures can be paired."""
        digest = hashlib.sha256()
        for array in (self.corpus.input_ids, self.corpus.supervised, self.corpus.offsets):
            digest.update(np.ascontiguousarray(array.astype(np.int64)).data)
        return digest.hexdigest()

    def cut(self, max_length: int) -> np.ndarray:
        """Return (N,) bool: which rows have more than ``max_length`` tokens."""
        return self.corpus.lengths > max_length

    def num_bytes(self, max_length: int) -> np.ndarray:
        """Return (N,) the UTF-8 bytes of what is scored, up to ``max_length`` tokens of a row.

        That is each taught response with the blank before it; an end token is no text.
        """
        counts = np.zeros(len(self.conversations), dtype=np.int64)
        cut = self.cut(max_length)
        constant = len(RESPONSE_HEADER) if self.header else 0
        for row, conversation in enumerate(self.conversations):
            if cut[row]:
                counts[row] = self._bytes_of_tokens(row, max_length)
                continue
            taught = conversation.taught or [True] * len(conversation.turns)
            for (_, response), scored in zip(conversation.turns, taught, strict=True):
                if scored:
                    counts[row] += constant + 1 + len(response.encode())
        return counts

    def _bytes_of_tokens(self, row: int, max_length: int) -> int:
        example = self.corpus.example(row)
        ids = example.input_ids[:max_length][example.supervised[:max_length]].tolist()
        ids = [token for token in ids if token != self.tokenizer.end_id]
        if self.tokenizer.is_byte_level:
            return sum(len(self.tokenizer.bytes_of(token)) for token in ids)
        return len(self.tokenizer.decode(ids).encode())


def encode(conversations: Sequence[Conversation], tokenizer: Tokenizer, supervise: str) -> Encoded:
    """Return the conversations as ids; ``supervise`` is that of ``conf/data``."""
    encoder = WordEncoder(tokenizer)
    parts = [
        encode_examples(conversations[first : first + ROWS_AT_A_TIME], encoder, supervise)
        for first in range(0, len(conversations), ROWS_AT_A_TIME)
    ]
    lengths = np.concatenate([part.lengths for part in parts])
    rows = len(conversations)
    corpus = Corpus(
        input_ids=np.concatenate([part.input_ids for part in parts]),
        supervised=np.concatenate([part.supervised for part in parts]),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        prompts=np.zeros(rows, dtype=np.uint64),
        sources=np.zeros(rows, dtype=np.uint16),
    )
    header = len(tokenizer.encode(RESPONSE_HEADER)) if supervise == "article" else 0
    return Encoded(conversations, tokenizer, corpus, header)
