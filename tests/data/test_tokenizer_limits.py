"""What a tokenizer of a stranger may ask for."""

import json
import time

import pytest

from src.data.tokenizer import load_tokenizer, train_tokenizer
from src.data.tokenizer_limits import is_endless
from src.errors import UserError

# As they are in tokenizer.json of GPT-2, GPT-4, GPT-4o, Llama 3, Qwen 2, DeepSeek and StarCoder.
HONEST = [
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{M}]*[\p{Ll}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}]+[\p{Ll}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+",
    r"\p{N}|[\r\n]| ?(?:[a-z]+) |[]a(+]+|(?:ab)+",
]
ENDLESS = [
    r"(a+)+$",
    r"(?:a*)*b",
    r"((ab)+c?)+",
    r"(a|a)*b",
    r"(\p{L}+\s?){2,}",
    r"([a-z]+)*",
    r"(x{1,100}){50}",
    r"(a(b|c)d)+",
    r"(a+)+?",
    r"(?i:a+)*+",
    r"[[]]+|(?:\s+)+",
]


@pytest.mark.parametrize("pattern", HONEST)
def test_the_expressions_of_known_tokenizers_are_no_danger(pattern):
    assert not is_endless(pattern)


@pytest.mark.parametrize("pattern", ENDLESS)
def test_a_repetition_in_a_repetition_is_one(pattern):
    assert is_endless(pattern)


def replace(text, content):
    return {"type": "Replace", "pattern": {"String": text}, "content": content}


def nested(depth):
    part = {"type": "NFC"}
    for _ in range(depth):
        part = {"type": "Sequence", "normalizers": [part]}
    return part


def split(pattern):
    part = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
    return part | {"invert": False}


TENFOLD = [replace("a", "a" * 10)] * 10
HOSTILE = {
    "growth": (
        {"normalizer": {"type": "Sequence", "normalizers": TENFOLD}},
        "10,000,000,000 times",
    ),
    "everywhere": ({"normalizer": replace("", "x" * 200)}, "201 times longer"),
    "prepended": ({"normalizer": {"type": "Prepend", "prepend": "x" * 10**6}}, "times longer"),
    "decoded": ({"decoder": {"type": "Sequence", "decoders": TENFOLD}}, "decoder may make"),
    "years": ({"pre_tokenizer": split("(a+)+$")}, "may take years"),
    "depth": ({"normalizer": nested(100)}, "nested more than 16 deep"),
    "tokens": (
        {"added_tokens": [{"id": n, "content": f"<{n}>"} for n in range(100_001)]},
        "adds 100,001 tokens",
    ),
    "affix": ({"model": {"type": "BPE", "vocab": {}, "end_of_word_suffix": "x" * 10**6}}, "suffix"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_part_that_asks_for_too_much_is_refused_at_once(name, tmp_path):
    train_tokenizer(["Hello there"] * 3, 260).save(tmp_path)
    path = tmp_path / "tokenizer.json"
    changes, message = HOSTILE[name]
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    start = time.process_time()  # beside other work, a clock says little
    with pytest.raises(UserError, match=message) as error:
        load_tokenizer(str(tmp_path))
    assert "\n" not in str(error.value)
    assert time.process_time() - start < 2


def test_a_setting_that_makes_a_million_tokens_is_refused(tmp_path):
    train_tokenizer(["Hello there"] * 3, 260).save(tmp_path)
    settings = {"tokenizer_class": "T5Tokenizer", "extra_ids": 10**9}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="extra_ids=1000000000 is too large"):
        load_tokenizer(str(tmp_path))


def test_a_length_that_means_no_limit_is_none(tmp_path):
    train_tokenizer(["Hello there"] * 3, 260).save(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": 10**30}))
    assert load_tokenizer(str(tmp_path)).encode("Hello")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vocab.txt", b"\n" * 1_000_001, "1,000,001 lines"),
        ("merges.txt", b"a b\n" * 1_000_001, "1,000,001 lines"),
        ("spiece.model", b"\x0a\x00" * 1_000_001, "more than 1,000,000 pieces"),
    ],
)
def test_a_vocabulary_without_an_end_is_refused(name, content, message, tmp_path):
    train_tokenizer(["Hello there"] * 3, 260).save(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_tokenizer(str(tmp_path))
