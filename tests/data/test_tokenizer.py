import json

import pytest
import tokenizers

from src.data.tokenizer import END_OF_TEXT, load_tokenizer, train_tokenizer
from src.errors import UserError
from tests.conftest import TEXTS

ODD_TEXTS = (
    "",
    " ",
    "Hello  world \n\n\t",
    "naïve Zürich 東京 👩‍🚀",
    "\x00\x1f\u2028\ufeff",
    "1234567890",
    "### Prompt: ### Response:",
)


def test_gpt2_gives_the_golden_ids(gpt2_tokenizer):
    assert gpt2_tokenizer.vocab_size == 50257
    assert gpt2_tokenizer.end_id == 50256
    assert gpt2_tokenizer.encode("### Prompt: Hello\n### Response: Hi") == [
        *(21017, 45965, 25, 18435, 198, 21017, 18261, 25, 15902),
    ]


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_any_text_comes_back(any_tokenizer, text):
    assert any_tokenizer.decode(any_tokenizer.encode(text)) == text


def test_a_literal_end_token_is_text(any_tokenizer):
    text = f"Write {END_OF_TEXT} here"
    ids = any_tokenizer.encode(text)
    assert any_tokenizer.end_id not in ids
    assert any_tokenizer.encode_batch([text]) == [ids]
    assert any_tokenizer.decode(ids) == text


def test_a_batch_is_encoded_like_each_text(any_tokenizer):
    assert any_tokenizer.encode_batch(ODD_TEXTS) == [any_tokenizer.encode(t) for t in ODD_TEXTS]
    assert any_tokenizer.encode_batch([]) == []


def test_the_trained_tokenizer_splits_numbers_into_digits(tokenizer):
    """Although 2024 stands four times in each round of its training text."""
    assert [tokenizer.decode([i]) for i in tokenizer.encode("2024")] == ["2", "0", "2", "4"]
    assert len(tokenizer.encode("capital")) < len("capital"), "words are merged"


def test_training_is_repeatable_and_keeps_to_its_size(tokenizer):
    again = train_tokenizer(iter(TEXTS * 3), vocab_size=320)
    assert again.fingerprint() == tokenizer.fingerprint()
    assert tokenizer.vocab_size == 320
    other = train_tokenizer(TEXTS * 3, vocab_size=300)
    assert other.vocab_size == 300
    assert other.fingerprint() != tokenizer.fingerprint()


def test_the_smallest_vocabulary_is_bytes_and_the_end_token():
    smallest = train_tokenizer([], vocab_size=257)
    assert smallest.vocab_size == 257
    assert len(smallest.encode("Zürich")) == len("Zürich".encode())
    with pytest.raises(UserError, match=r"model\.vocab_size=256: .*at least 257"):
        train_tokenizer([], vocab_size=256)


def test_saved_and_loaded_it_is_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(str(tmp_path))
    assert loaded.fingerprint() == tokenizer.fingerprint()
    assert (loaded.end_id, loaded.vocab_size) == (tokenizer.end_id, tokenizer.vocab_size)
    text = f"2024 {END_OF_TEXT}"
    assert loaded.encode(text) == tokenizer.encode(text)
    assert tokenizer.end_id not in tokenizer.encode(text), "saving changed how text is read"


def test_vocabulary_and_merges_equal_the_saved_file(gpt2_tokenizer, tmp_path):
    gpt2_tokenizer.save(tmp_path)
    loaded = load_tokenizer(str(tmp_path))
    for text in ODD_TEXTS:
        assert loaded.encode(text) == gpt2_tokenizer.encode(text)


def test_transformers_reads_the_saved_folder_alike(any_tokenizer, tmp_path):
    from transformers import AutoTokenizer

    any_tokenizer.save(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for text in (*ODD_TEXTS, *TEXTS):
        assert theirs(text)["input_ids"] == any_tokenizer.encode(text), text
    assert theirs.eos_token_id == theirs.pad_token_id == any_tokenizer.end_id
    ids = [*any_tokenizer.encode("Hi"), any_tokenizer.end_id]
    assert theirs.decode(ids) == f"Hi{END_OF_TEXT}"
    assert theirs.decode(ids, skip_special_tokens=True) == "Hi"


def test_transformers_splits_numbers_as_we_do(tmp_path):
    """Two spaces before a number are one token only where the number is split off first."""
    from transformers import AutoTokenizer

    spaced = train_tokenizer(["1  2  3  4"] * 9, vocab_size=258)
    spaced.save(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    ids = spaced.encode("1  2")
    assert [spaced.decode([i]) for i in ids] == ["1", "  ", "2"]
    assert AutoTokenizer.from_pretrained(tmp_path)("1  2")["input_ids"] == ids


def test_truncation_and_padding_of_a_loaded_file_are_switched_off(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    backend = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    backend.enable_truncation(4)
    backend.enable_padding(length=8)
    backend.save(str(tmp_path / "tokenizer.json"))
    loaded = load_tokenizer(str(tmp_path))
    texts = ["a", "What is the capital of France?"]
    assert loaded.encode_batch(texts) == tokenizer.encode_batch(texts)


def test_a_tokenizer_that_cannot_be_used_is_named_by_its_key(tokenizer, tmp_path):
    def complaint(name: str) -> str:
        with pytest.raises(UserError, match=r"^model\.tokenizer=") as caught:
            load_tokenizer(name)
        return str(caught.value)

    assert "holds neither tokenizer.json nor vocab.json + merges.txt" in complaint(str(tmp_path))
    assert "there is no such folder" in complaint(str(tmp_path / "absent"))

    tokenizer.save(tmp_path)
    whole = json.loads((tmp_path / "tokenizer.json").read_text())
    whole["added_tokens"] = []
    del whole["model"]["vocab"][END_OF_TEXT]
    (tmp_path / "tokenizer.json").write_text(json.dumps(whole))
    (tmp_path / "tokenizer_config.json").unlink()
    assert f"has no {END_OF_TEXT} token" in complaint(str(tmp_path))

    (tmp_path / "tokenizer.json").write_text("{")
    assert "tokenizer.json is broken" in complaint(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{}")
    assert "the tokenizer is broken" in complaint(str(tmp_path))
    assert "is a file" in complaint(str(tmp_path / "tokenizer.json"))


def test_a_hub_name_that_is_not_here_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set: give a local folder"):
        load_tokenizer("nobody/no-such-tokenizer")


@pytest.mark.parametrize("text", ["héllo 日本語 🙂", "a\n b\t\x00\x7f\xa0\xad", ""])
def test_the_bytes_of_the_tokens_are_the_text(tokenizer, text):
    assert b"".join(map(tokenizer.bytes_of, tokenizer.encode(text))) == text.encode()


def test_each_token_has_the_bytes_that_it_decodes_to():
    tokenizer = train_tokenizer(TEXTS * 3, vocab_size=320)
    tokenizer.backend.add_tokens([new := "<a 日本>"])
    ids = range(tokenizer.backend.get_vocab_size() + 1)  # one more than there are
    for index in ids:
        assert tokenizer.bytes_of(index).decode(errors="replace") == tokenizer.decode([index])
    assert tokenizer.bytes_of(tokenizer.end_id) == b"<|endoftext|>"
    assert tokenizer.bytes_of(tokenizer.backend.token_to_id(new)) == new.encode()
