"""Answers break between words, at the width of the moment, and lose no character but blanks."""

import random

import pytest
from rich.cells import cell_len

from src.talk.word_wrap import WordWrap


def wrapped(text: str, width: int) -> str:
    wrap = WordWrap(lambda: width)
    return wrap.push(text) + wrap.finish()


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("one two three", 9, ["one two", "three"]),
        ("one two three", 8, ["one two", "three"]),  # the last column is the cursor's
        ("one two three", 7, ["one", "two", "three"]),
        ("one  two\n\nthree ", 80, ["one  two", "", "three "]),
        ("see https://a.example/b now", 12, ["see", "https://a.example/b now"]),
        ("    code is left whole", 9, ["    code is left whole"]),
        ("\tcode is left whole", 9, ["\tcode is left whole"]),
        ("```\na b c d e f\n```\na b c d", 6, ["```", "a b c d e f", "```", "a b c", "d"]),
        ("ab\tcd", 10, ["ab", "cd"]),
        ("ab\tcd", 12, ["ab\tcd"]),
        ("我们今天去", 7, ["我们今", "天去"]),
        ("我们今。", 7, ["我们", "今。"]),  # no line begins with a closing sign
        ("我们「今」", 7, ["我们", "「今」"]),  # nor ends with an opening one
        ("a 👩‍👩‍👧 b", 4, ["a", "👩‍👩‍👧", "b"]),
        ("e\u0301e\u0301 e\u0301", 4, ["e\u0301e\u0301", "e\u0301"]),
        ("10\u00a0km far", 7, ["10\u00a0km", "far"]),
        ("", 9, [""]),
    ],
)
def test_lines_end_between_words(text, width, lines):
    assert wrapped(text, width).split("\n") == lines


def test_how_the_pieces_are_cut_makes_no_difference():
    draw = random.Random(1)
    text = "The brown 狐狸跳过懒狗。 fox\njumps https://example.com/over/it\n```\nlong code\n```\n"
    for width in (5, 12, 30, 200):
        for _ in range(50):
            wrap, shown, start = WordWrap(lambda width=width: width), "", 0
            while start < len(text):
                end = start + draw.randrange(1, 9)
                shown += wrap.push(text[start:end])
                start = end
            assert shown + wrap.finish() == wrapped(text, width)


def test_only_blanks_at_which_a_line_ends_are_lost():
    draw = random.Random(2)
    for _ in range(200):
        text = "".join(draw.choices("ab  \n狐。é\t`", k=60))
        width = draw.randrange(6, 40)
        shown = wrapped(text, width)
        assert "".join(shown.split()) == "".join(text.split())
        if "\t" not in text and "`" not in text and "    " not in text:
            assert all(cell_len(line.rstrip()) <= width for line in shown.split("\n"))


def test_a_word_appears_when_it_is_complete_and_a_long_one_as_it_comes():
    wrap = WordWrap(lambda: 20)
    assert [wrap.push(piece) for piece in ("Hel", "lo wor", "ld.", " ")] == [
        "",
        "Hello",
        "",
        " world.",
    ]
    assert wrap.push("x" * 30).count("x") >= 19


def test_another_width_counts_from_the_next_word_on():
    width = 40
    wrap = WordWrap(lambda: width)
    shown = wrap.push("one two three four five ")
    width = 12  # the terminal has broken what stood there: the cursor is after "five"
    shown += wrap.push("six seven eight nine")
    shown += wrap.finish()
    assert shown == "one two three four five\nsix seven\neight nine"
