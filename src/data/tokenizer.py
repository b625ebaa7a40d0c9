"""Tokenizers: load, train, save. Those that we train are byte-level BPEs, as GPT-2's.

Built on the ``tokenizers`` library alone, so that a chat starts without importing transformers.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from src.data.byte_alphabet import BYTES
from src.data.tokenizer_files import (
    END_OF_TEXT,
    FILES,
    SETTINGS,
    TOKENIZER,
    byte_level,
    read_tokenizer,
)
from src.errors import UserError
from src.files import atomic
from src.files.model_files import VOCABULARIES
from src.hub import local_folder

PAD = "<|pad|>"
REPLACEMENT = "\ufffd"  # decoded from bytes that make no character, or none yet
NAMES = ("bos_token", "eos_token", "pad_token", "unk_token")


class Tokenizer:
    """Text to token ids and back, with an end token: ``<|endoftext|>``, or another of ``names``.

    A literal special token in a text is encoded as text, never as the special token; the end token
    is only appended by id, as ``end_id``.

    Args:
        backend: of the ``tokenizers`` library.
        names: the special tokens by their names, as chat templates use them; None: all are
            ``<|endoftext|>``.
    """

    def __init__(self, backend: tokenizers.Tokenizer, names: Mapping[str, str] | None = None):
        self.names = dict.fromkeys(NAMES, END_OF_TEXT) if names is None else dict(names)
        self.end_token = self.names["eos_token"]
        end_id = backend.token_to_id(self.end_token)
        if end_id is None:
            raise UserError(f"the tokenizer has no {self.end_token} token")
        self.backend = backend
        self._splits_special_tokens = backend.encode_special_tokens
        self.backend.encode_special_tokens = True
        self.backend.no_truncation()
        self.backend.no_padding()
        self.end_id: int = end_id
        self.vocab_size: int = max(backend.get_vocab(with_added_tokens=True).values()) + 1

    @property
    def special_tokens(self) -> dict[str, int]:
        """The ids of the special tokens, by their texts."""
        added = self.backend.get_added_tokens_decoder().items()
        return {token.content: index for index, token in added if token.special}

    def encode(self, text: str) -> list[int]:
        """Return the ids of ``text``."""
        return self.backend.encode(text, add_special_tokens=False).ids

    def encode_special(self, text: str) -> list[int]:
        """Return the ids of ``text``, in which a special token is that token."""
        return self._special_backend.encode(text, add_special_tokens=False).ids

    @cached_property
    def _special_backend(self) -> tokenizers.Tokenizer:
        """A copy: the switch of ``backend`` is not changed while others encode."""
        copy = tokenizers.Tokenizer.from_str(self.backend.to_str())
        copy.encode_special_tokens = self._splits_special_tokens
        return copy

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, encoded on all cores."""
        encodings = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ``ids``; bytes that make no character become U+FFFD."""
        return self.backend.decode(list(ids), skip_special_tokens=False)

    @cached_property
    def is_byte_level(self) -> bool:
        """Whether the text of a token does not depend on the tokens before it."""
        return isinstance(self.backend.decoder, decoders.ByteLevel)

    def bytes_of(self, token: int) -> bytes:
        """Return the bytes of ``token``, perhaps a part of a character; none for an unknown id.

        Only where ``is_byte_level``.
        """
        text = self.backend.id_to_token(token) or ""
        try:
            return bytes(BYTES[character] for character in text)
        except KeyError:  # an added token is text
            return text.encode()

    def fingerprint(self) -> str:
        """Return a hash of everything that decides the ids, the end token's among them."""
        end = "" if self.end_token == END_OF_TEXT else self.end_token
        return hashlib.sha256((self.backend.to_str() + end).encode()).hexdigest()

    def with_padding(self) -> "Tokenizer":
        """Return a tokenizer whose pad token is one that no text holds; self, if it has one."""
        pad = self.names.get("pad_token")
        if pad != self.end_token and pad in self.special_tokens:
            return self
        backend = tokenizers.Tokenizer.from_str(self.backend.to_str())
        backend.encode_special_tokens = self._splits_special_tokens
        backend.add_special_tokens([tokenizers.AddedToken(PAD, special=True, normalized=False)])
        return Tokenizer(backend, {**self.names, "pad_token": PAD})

    def save(self, folder: Path) -> None:
        """Write ``files`` into a folder."""
        for name, text in self.files().items():
            atomic.write_text(folder / name, text)

    def files(self) -> dict[str, str]:
        """Return ``tokenizer.json`` and ``tokenizer_config.json``, as AutoTokenizer reads them."""
        self.backend.encode_special_tokens = False  # a runtime switch; the file keeps the standard
        try:
            text = self.backend.to_str(pretty=True)
        finally:
            self.backend.encode_special_tokens = True
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "pad_token": self.end_token,
            **self.names,
            "clean_up_tokenization_spaces": False,
        }
        return {TOKENIZER: text, SETTINGS: atomic.as_json(config)}


def load_tokenizer(name_or_path: str, key: str = "model.tokenizer") -> Tokenizer:
    """Load the tokenizer of a folder or hub name; its ids are those of transformers.

    Raises:
        UserError: there is none, it is broken, or it has no end token; names ``key``.
    """
    folder = local_folder(name_or_path, FILES, required=("|".join(VOCABULARIES),), key=key)
    try:
        return Tokenizer(*read_tokenizer(folder))
    except UserError as error:
        raise UserError(f"{key}={name_or_path}: {error}") from error


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE of at most ``vocab_size`` tokens; each digit is a token.

    Raises:
        UserError: ``vocab_size`` is too small for the bytes.
    """
    if vocab_size < 257:
        raise UserError(
            f"model.vocab_size={vocab_size}: a byte-level BPE needs at least 257 tokens"
        )
    splits = [
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    ]
    backend = byte_level(models.BPE(), splits)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return Tokenizer(backend)
