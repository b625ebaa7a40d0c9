"""Words are encoded once; the ids are those of the library, whatever the text."""

import random
from array import array

import numpy as np
import pytest
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

from src.data import words
from src.data.tokenizer import Tokenizer
from src.data.words import WordEncoder, cut_of, ids_dtype

ASCII = [chr(code) for code in range(128)]
# Spaces, digits and letters of which regular expressions hold different views; combining marks.
ODD = "\x85\xa0\u1680\u180e\u2000\u2009\u200b\u2028\u202f\u3000\ufeff²½٣Ⅻ①ǅʰé\u0301日本’“—😀\u200d"
DENSE = "   \n\n\t\r''sdtrevml01aB.,!"


def decoded(encoder: WordEncoder, texts: list[str]) -> list[list[int]]:
    return [np.frombuffer(ids, encoder.dtype).tolist() for ids in encoder.encode_batch(texts)]


@pytest.mark.parametrize(
    "alphabet",
    [
        ASCII,
        DENSE,
        [*DENSE] * 3 + [*ODD],
        [*ODD],
        [chr(c) for c in range(32, 0x3000)] + [" "] * 3000,
    ],
    ids=["ascii", "dense", "odd", "odd alone", "any"],
)
def test_the_ids_are_the_librarys(any_tokenizer, alphabet):
    rng = random.Random(0)
    texts = ["".join(rng.choices(alphabet, k=rng.randrange(25))) for _ in range(3000)]
    encoder = WordEncoder(any_tokenizer)
    assert encoder.cut is not None
    assert decoded(encoder, texts) == any_tokenizer.encode_batch(texts)
    assert decoded(encoder, texts) == any_tokenizer.encode_batch(texts), "from memory"


def test_the_library_is_asked_for_a_word_once(tokenizer, monkeypatch):
    asked = []
    encode = Tokenizer.encode
    monkeypatch.setattr(Tokenizer, "encode", lambda t, text: asked.append(text) or encode(t, text))
    encoder = WordEncoder(tokenizer)
    merge = encoder.ids_of.merge
    encoder.ids_of.merge = lambda word: asked.append(word) or merge(word)
    encoder.encode_batch(["one two one", "one two three"])
    encoder.encode_batch([" two", "\n\x7f"])
    assert asked == ["one", "Ġtwo", "Ġone", "Ġthree", "Ċ", "ġ"]


def test_what_is_remembered_is_bounded(tokenizer, monkeypatch):
    monkeypatch.setattr(words, "MAX_WORDS", 10)
    encoder = WordEncoder(tokenizer)
    texts = [f"word{chr(65 + number % 26)}{chr(65 + number // 26)}" for number in range(100)]
    for text in texts:
        assert decoded(encoder, [text]) == [tokenizer.encode(text)]
        assert len(encoder.ids_of) <= 11
    encoder.ids_of.clear()
    assert decoded(encoder, ["x" * 10_000]) == [tokenizer.encode("x" * 10_000)]
    assert not encoder.ids_of


@pytest.mark.parametrize("change", ["rule", "none", "normalizer", "dropout", "added"])
def test_a_tokenizer_with_other_rules_gets_whole_texts(tokenizer, change):
    backend = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    if change == "rule":
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    elif change == "none":
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    elif change == "normalizer":
        backend.normalizer = normalizers.Lowercase()
    elif change == "dropout":
        backend.model.dropout = 0.5
    else:
        backend.add_tokens(["two three"])
    other = Tokenizer(backend)
    assert cut_of(other) is None
    if change != "dropout":
        texts = ["One two three", "", "zwei  drei é"]
        assert decoded(WordEncoder(other), texts) == other.encode_batch(texts)
    assert isinstance(backend.model, models.BPE)


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65536, np.uint16), (65537, np.uint32)])
def test_ids_are_stored_in_as_few_bytes_as_hold_them(vocab_size, dtype):
    assert ids_dtype(vocab_size) == dtype
    assert array(ids_dtype(vocab_size).char).itemsize == np.dtype(dtype).itemsize
