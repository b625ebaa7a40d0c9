"""Byte-level BPE tokenizers: load, train, save.

Built on the ``tokenizers`` library alone, so that a chat starts without importing transformers.
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from src import atomic
from src.errors import UserError
from src.hub import local_folder

END_OF_TEXT = "<|endoftext|>"
REPLACEMENT = "\ufffd"  # decoded from bytes that make no character, or none yet
FILES = ("tokenizer.json", "vocab.json", "merges.txt")
SETTINGS = "tokenizer_config.json"


def _byte_alphabet() -> dict[str, int]:
    """Return the byte of each character of GPT-2's vocabulary, all of which are visible."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(range(256)) - set(printable))
    codes = [*printable, *range(256, 256 + len(others))]
    return {chr(code): byte for code, byte in zip(codes, printable + others, strict=True)}


BYTES = _byte_alphabet()


class Tokenizer:
    """Text to token ids and back, with ``<|endoftext|>`` as the end token.

    A literal ``<|endoftext|>`` in a text is encoded as text, never as the special token; the end
    token is only appended by id, as ``end_id``.
    """

    def __init__(self, backend: tokenizers.Tokenizer):
        end_id = backend.token_to_id(END_OF_TEXT)
        if end_id is None:
            raise UserError(
                f"the tokenizer has no {END_OF_TEXT} token: use one of the GPT-2 family"
            )
        self.backend = backend
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

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, encoded on all cores."""
        encodings = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ``ids``; bytes that make no character become U+FFFD."""
        return self.backend.decode(list(ids), skip_special_tokens=False)

    def bytes_of(self, token: int) -> bytes:
        """Return the bytes of ``token``, perhaps a part of a character; none for an unknown id."""
        text = self.backend.id_to_token(token) or ""
        try:
            return bytes(BYTES[character] for character in text)
        except KeyError:  # an added token is text
            return text.encode()

    def fingerprint(self) -> str:
        """Return a hash of everything that decides the ids."""
        return hashlib.sha256(self.backend.to_str().encode()).hexdigest()

    def save(self, folder: Path) -> None:
        """Write ``tokenizer.json`` and ``tokenizer_config.json``, as AutoTokenizer reads them."""
        self.backend.encode_special_tokens = False  # a runtime switch; the file keeps the standard
        try:
            self.backend.save(str(folder / "tokenizer.json"))
        finally:
            self.backend.encode_special_tokens = True
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": END_OF_TEXT,
            "eos_token": END_OF_TEXT,
            "pad_token": END_OF_TEXT,
            "unk_token": END_OF_TEXT,
            "clean_up_tokenization_spaces": False,
        }
        atomic.write_json(folder / SETTINGS, config)


def load_tokenizer(name_or_path: str, key: str = "model.tokenizer") -> Tokenizer:
    """Load the tokenizer of a folder or hub name (``tokenizer.json``, or vocabulary and merges).

    Raises:
        UserError: there is none, or it is not a GPT-2-like tokenizer; names ``key``.
    """
    folder = local_folder(name_or_path, FILES, required=FILES[:1], key=key)
    tokenizer, vocab, merges = (folder / name for name in FILES)
    try:
        if tokenizer.exists():
            return Tokenizer(tokenizers.Tokenizer.from_file(str(tokenizer)))
        if vocab.exists() and merges.exists():
            bpe = models.BPE.from_file(str(vocab), str(merges))
            return Tokenizer(_byte_level(bpe, [pre_tokenizers.ByteLevel(add_prefix_space=False)]))
    except UserError as error:
        raise UserError(f"{key}={name_or_path}: {error}") from error
    except Exception as error:  # the library raises bare Exception for a file it cannot parse
        raise UserError(f"{key}={name_or_path}: the tokenizer is broken: {error}") from error
    raise UserError(f"{key}={name_or_path}: holds neither {FILES[0]} nor {FILES[1]} + {FILES[2]}")


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
    backend = _byte_level(models.BPE(), splits)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return Tokenizer(backend)


def _byte_level(
    model: models.Model, splits: list[pre_tokenizers.PreTokenizer]
) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = splits[0] if len(splits) == 1 else pre_tokenizers.Sequence(splits)
    backend.decoder = decoders.ByteLevel()
    end = tokenizers.AddedToken(END_OF_TEXT, special=True, normalized=False)
    backend.add_special_tokens([end])
    return backend
