"""Many texts to token ids, each word encoded once.

A byte-level BPE merges nothing across the words into which its pre-tokenizer cuts a text, and some
ten thousand words make up most texts. So this module cuts texts by the tokenizer's rule and looks
up the ids of each word; only new words go to the ``tokenizers`` library. That is several times as
fast as the library on whole texts, with the same ids.
"""

import json
import re
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tokenizers import models

from src.data.tokenizer import BYTES, Tokenizer

MAX_WORDS = 2**17  # some 30 MB; with more, the memory starts again from nothing
LONGEST_WORD = 32  # characters: a longer one hardly ever repeats

_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
_DIGITS = {"type": "Digits", "individual_digits": True}


@dataclass(frozen=True)
class Cut:
    """A pre-tokenizer's rule as regular expressions.

    ``words`` cuts ASCII text as the library does. ``chunks`` cuts other text only between a
    character and the space after it, where a word always ends; None: with this rule it may not.
    """

    pre_tokenizers: tuple[dict[str, Any], ...]
    words: Callable[[str], list[str]]
    chunks: Callable[[str], list[str]] | None


def _findall(pattern: str) -> Callable[[str], list[str]]:
    return re.compile(pattern, re.ASCII).findall  # ASCII: \s means the same as in the library


CUTS = (
    Cut(  # GPT-2
        (_BYTE_LEVEL,),
        _findall(
            r"'s|'t|'re|'ve|'m|'ll|'d| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+",
        ),
        _findall(r" ?\S+|\s+(?!\S)|\s+"),
    ),
    Cut(  # that of train_tokenizer: a word ends before and after each digit
        (_DIGITS, _BYTE_LEVEL),
        _findall(
            r"'s|'t|'re|'ve|'m|'ll|'d| ?[A-Za-z]+|[0-9]| ?[^\sA-Za-z0-9]+|\s+(?![^\s0-9])|\s+",
        ),
        None,
    ),
)
# White space beyond ASCII, which Python and the library define differently.
_OTHER_SPACE = re.compile("[\x85\xa0\u1680\u180e\u2000-\u200f\u2028\u2029\u202f\u205f\u3000\ufeff]")

# The character of GPT-2's vocabulary for each ASCII one.
_VISIBLE = {byte: character for character, byte in BYTES.items() if byte < 128}


class WordEncoder:
    """Encodes many texts with one tokenizer; ``dtype`` is that of the ids."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self.dtype = ids_dtype(tokenizer.vocab_size)
        self.cut = cut_of(tokenizer)
        self.ids_of = _Memory(tokenizer, self.cut, self.dtype.char)

    def encode_batch(self, texts: Sequence[str]) -> list[bytes]:
        """Return the ids of each text as the bytes of an array of ``dtype``."""
        if len(self.ids_of) > MAX_WORDS:
            self.ids_of.clear()
        cuts = [self._cut(text) for text in texts]
        uncut = [text for text, cut in zip(texts, cuts, strict=True) if cut is None]
        ids = iter(self.tokenizer.encode_batch(uncut) if uncut else ())
        ids_of, code = self.ids_of.__getitem__, self.dtype.char
        return [
            array(code, next(ids)).tobytes() if cut is None else b"".join(map(ids_of, cut(text)))
            for text, cut in zip(texts, cuts, strict=True)
        ]

    def _cut(self, text: str) -> Callable[[str], list[str]] | None:
        """Return what cuts ``text``; None: the library encodes it as one."""
        if self.cut is None or text.isascii():
            return None if self.cut is None else self.cut.words
        return None if _OTHER_SPACE.search(text) else self.cut.chunks


class _Memory(dict[str, bytes]):
    """The ids of each word or chunk so far; without a ``Cut`` there are none.

    The library merges here without ``encode``, which takes three times as long because it also
    looks for words and special tokens. New words were a third of the work on Alpaca's 52,000 rows.
    """

    def __init__(self, tokenizer: Tokenizer, cut: Cut | None, code: str):
        super().__init__()
        self.tokenizer, self.cut, self.code = tokenizer, cut, code
        self.merge = tokenizer.backend.model.tokenize

    def __missing__(self, word: str) -> bytes:
        if self.cut is not None and word.isascii():  # a chunk of other text may hold several words
            parts = (self.merge(part.translate(_VISIBLE)) for part in self.cut.words(word))
            ids = [token.id for tokens in parts for token in tokens]
        else:
            ids = self.tokenizer.encode(word)
        data = array(self.code, ids).tobytes()
        if len(word) <= LONGEST_WORD:
            self[word] = data
        return data


def ids_dtype(vocab_size: int) -> np.dtype:
    """Return the smallest type that holds every id."""
    return np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32)


def cut_of(tokenizer: Tokenizer) -> Cut | None:
    """Return how ``tokenizer`` cuts texts into words; None: by a rule that is not in ``CUTS``."""
    backend = tokenizer.backend
    plain = (
        backend.normalizer is None
        and isinstance(backend.model, models.BPE)
        and not backend.model.dropout
        and all(token.special for token in backend.get_added_tokens_decoder().values())
    )
    if not plain or backend.pre_tokenizer is None:
        return None
    state = json.loads(backend.pre_tokenizer.__getstate__())
    parts = state["pretokenizers"] if state["type"] == "Sequence" else [state]
    for part in parts:
        part.pop("trim_offsets", None)  # decides offsets, not words
    return next((cut for cut in CUTS if list(cut.pre_tokenizers) == parts), None)
