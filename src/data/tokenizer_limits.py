"""What a tokenizer of a stranger may ask for: bounds that no honest one reaches.

A small ``tokenizer.json`` can make a text a billion times longer, or keep a regular expression busy
for years, as the library that reads it has no bounds of its own. Its parts are looked at first.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from src.errors import UserError
from src.files.model_files import read_file

PARTS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
MAX_DEPTH = 16  # of lists and objects in a part
MAX_GROWTH = 100  # times that a text becomes longer
MAX_ADDED = 100_000  # tokens
MAX_AFFIX = 256  # characters that a model puts before or behind a piece
MAX_PATTERN = 10_000  # characters of a regular expression
MAX_REPEATS = 10  # from here on a count in one is as good as any number
MAX_LINES = 1_000_000
PIECE = 0x0A  # the tag of the first field
VARINT_BITS = 64
MAX_NUMBER = 100_000  # of a setting, which may be a number of tokens to make
LENGTHS = {"model_max_length", "max_length", "max_len"}  # settings of any size


def check_state(state: dict[str, Any]) -> None:
    """Check the content of a ``tokenizer.json``.

    Raises:
        UserError: names the part that asks for too much.
    """
    added = state.get("added_tokens")
    if isinstance(added, list) and len(added) > MAX_ADDED:
        raise UserError(
            f"the tokenizer adds {len(added):,} tokens, and at most {MAX_ADDED:,} are read"
        )
    if isinstance(model := state.get("model"), dict):
        for key in ("continuing_subword_prefix", "end_of_word_suffix", "unk_token"):
            if len(str(model.get(key))) > MAX_AFFIX:
                raise UserError(f"the tokenizer's {key} has more than {MAX_AFFIX} characters")
    for part in PARTS:
        if _is_deeper(state.get(part), MAX_DEPTH):
            raise UserError(f"the tokenizer's {part} is nested more than {MAX_DEPTH} deep")
        for pattern in _patterns(state.get(part)):
            if len(pattern) > MAX_PATTERN or is_endless(pattern):
                raise UserError(
                    f"the tokenizer's {part} holds a regular expression that may take years: "
                    f"{pattern!r:.60}"
                )
        if (growth := _growth(state.get(part))) > MAX_GROWTH:
            raise UserError(
                f"the tokenizer's {part} may make a text {growth:,} times longer, and at most "
                f"{MAX_GROWTH} times are borne"
            )


def check_lines(path: Path) -> None:
    """Check a vocabulary of one entry a line.

    Raises:
        UserError: it has too many.
    """
    if not os.path.lexists(path):
        return
    if (lines := read_file(path).count(b"\n")) > MAX_LINES:
        raise UserError(f"{path} has {lines:,} lines, and at most {MAX_LINES:,} are read")


def check_pieces(path: Path) -> None:
    """Check a sentencepiece model, a protocol buffer whose first field is a piece.

    Raises:
        UserError: it has too many pieces.
    """
    content = read_file(path)
    index = pieces = 0
    while index < len(content) and content[index] == PIECE and pieces <= MAX_LINES:
        length = shift = 0
        while index + 1 < len(content) and shift < VARINT_BITS:
            index += 1
            length |= (content[index] & 0x7F) << shift
            shift += 7
            if content[index] < 0x80:
                break
        index, pieces = index + 1 + length, pieces + 1
    if pieces > MAX_LINES:
        raise UserError(f"{path} has more than {MAX_LINES:,} pieces, and no more are read")


def check_numbers(settings: dict[str, Any]) -> None:
    """Check the numbers of a ``tokenizer_config.json``, such as how many tokens to make.

    Raises:
        UserError: names the one that is too large.
    """
    for key, value in settings.items():
        if is_too_large(key, value):
            raise UserError(
                f"the tokenizer's {key}={value:.0f} is too large: at most {MAX_NUMBER:,}"
            )


def is_too_large(key: str, value: Any) -> bool:
    """Whether a setting is a number that no honest folder holds."""
    return isinstance(value, int | float) and value > MAX_NUMBER and key not in LENGTHS


def _is_deeper(value: Any, depth: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    values = value.values() if isinstance(value, dict) else value
    return depth == 0 or any(_is_deeper(each, depth - 1) for each in values)


def _patterns(value: Any) -> Iterator[str]:
    """Yield the regular expressions in a part."""
    if isinstance(value, dict):
        if isinstance(value.get("Regex"), str):
            yield value["Regex"]
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from _patterns(each)


def _growth(part: Any) -> int:
    """Return how many times longer a part may make a text."""
    if isinstance(part, list):
        growth = 1
        for each in part:
            growth *= _growth(each)
        return growth
    if not isinstance(part, dict):
        return 1
    content, pattern = part.get("content"), part.get("pattern")
    if part.get("type") == "Prepend":
        return max(1, len(str(part.get("prepend"))))
    if part.get("type") == "Replace" and isinstance(content, str):
        found = pattern.get("String") if isinstance(pattern, dict) else None
        if isinstance(found, str) and found:
            return max(1, -(-len(content) // len(found)))
        return 1 + len(content)  # an empty text is everywhere
    return _growth(list(part.values()))


def is_endless(pattern: str) -> bool:
    """Whether a regular expression repeats a group that repeats or chooses, as ``(a+)+`` does.

    A search that fails may then try as many ways as there are subsets of the characters.
    """
    groups = [False]  # of each open group: whether it repeats or chooses
    closed = False  # the group that ended just here, if it did
    index = 0
    while index < len(pattern):
        character = pattern[index]
        if character == "\\":
            closed, index = False, index + 2
            continue
        if character == "[":
            index, closed = _end_of_class(pattern, index), False
            continue
        length = _repetition(pattern, index)
        if length:
            if closed:
                return True
            groups[-1] = True
            index += length
            continue
        if character == "(":
            groups.append(False)
            closed = False
            index += 2 if pattern[index + 1 : index + 2] == "?" else 1  # (?: and its like
            continue
        if character == ")" and len(groups) > 1:
            closed = groups.pop()
            groups[-1] |= closed
        elif character == "|":
            groups[-1], closed = len(groups) > 1 or groups[-1], False
        elif character not in "?+":  # behind a repetition: reluctant or possessive
            closed = False
        index += 1
    return False


def _repetition(pattern: str, index: int) -> int:
    """Return the length of a repetition without a small bound at ``index``; 0: there is none."""
    if pattern[index] in "*+":
        return 1
    end = pattern.find("}", index)
    if pattern[index] != "{" or end < 0:
        return 0
    least, comma, most = pattern[index + 1 : end].partition(",")
    if not (least + most).isdigit():
        return 0
    is_small = bool(most or not comma) and int(most or least) <= MAX_REPEATS
    return 0 if is_small else end + 1 - index


def _end_of_class(pattern: str, index: int) -> int:
    """Return where ``[...]`` ends, which may hold others."""
    depth, start = 0, index
    while index < len(pattern):
        if pattern[index] == "\\":
            index += 2
            continue
        is_first = index == start + 1 or (index == start + 2 and pattern[start + 1] == "^")
        depth += pattern[index] == "["
        depth -= pattern[index] == "]" and not is_first
        index += 1
        if depth == 0:
            return index
    return len(pattern)
