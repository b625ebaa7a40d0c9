import pytest

from src.talk.text_stream import TextStream


def read(stream: TextStream, ids: list[int]) -> list[str]:
    pieces = [stream.push(token) for token in ids]
    return [*pieces, stream.finish()]


@pytest.mark.parametrize("text", ["héllo 日本語 🙂👍🏽", "a\n b", ""])
def test_the_pieces_are_the_text(tokenizer, text):
    stream = TextStream(tokenizer)
    assert "".join(read(stream, tokenizer.encode(text))) == text == stream.text


def test_bytes_that_never_make_a_character_do_not_hold_up_the_rest(tokenizer):
    lone = tokenizer.encode("é")[-1]  # the second byte of two
    stream = TextStream(tokenizer)
    pieces = read(stream, [lone] * 6 + tokenizer.encode("ok"))
    assert stream.text == "\ufffd" * 6 + "ok"
    assert pieces[1:6] == ["\ufffd"] * 5


def test_bytes_that_make_no_character_cut_none_that_follows(tokenizer):
    ids = [token_of(tokenizer, byte) for byte in b"\xe2" + "😀".encode()]
    assert "".join(read(TextStream(tokenizer), ids)) == "\ufffd😀"


def token_of(tokenizer, byte: int) -> int:
    return next(i for i in range(tokenizer.vocab_size) if tokenizer.bytes_of(i) == bytes([byte]))


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("one two three", ["two"], "one "),
        ("one two three", ["three", "two"], "one "),
        ("aaab", ["aab"], "a"),
        ("one tw", ["two"], "one tw"),
        ("one", ["one"], ""),
        ("a 🙂 b", ["🙂"], "a "),
    ],
)
def test_a_stop_string_ends_the_text_and_no_part_of_it_is_shown(tokenizer, text, stop, expected):
    stream = TextStream(tokenizer, stop)
    shown = ""
    for token in tokenizer.encode(text):
        shown += stream.push(token)
        assert expected.startswith(shown)
    shown += stream.finish()
    assert shown == stream.text == expected
    assert stream.stopped == (expected != text)


def test_only_what_may_be_a_stop_string_is_held_back(tokenizer):
    stream = TextStream(tokenizer, ["###"])
    pieces = read(stream, tokenizer.encode("a#b"))
    assert pieces == ["a", "", "#b", ""]


def test_space_before_the_text_is_the_templates(tokenizer):
    assert "".join(read(TextStream(tokenizer), tokenizer.encode("  \n hi there"))) == "hi there"
