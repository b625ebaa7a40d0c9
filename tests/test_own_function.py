"""A person's own function that fails is one line: what, and in which line of theirs."""

import pytest

from src.command.cli import Stopped
from src.errors import UserError
from src.own_function import finite_scores, own_function

SOURCE = """
import json
import sys
import torch

LENGTHS = {"Who?": 1}


def key(prompt, replies):
    return [LENGTHS[reply] for reply in replies]


def zero(prompt, replies):
    return [1 / len(prompt[5:]) for _ in replies]


def deep(prompt, replies):
    return json.loads(prompt)


def silent(prompt, replies):
    raise RuntimeError


def later(prompt, replies):
    for reply in replies:
        yield LENGTHS[reply]


def leaves(prompt, replies):
    sys.exit("bye")


def recursive(prompt, replies):
    return recursive(prompt, replies)


def odd(prompt, replies):
    return [torch.ones(2)] * len(replies)


def huge(prompt, replies):
    return [10 ** 400] * len(replies)


def stopped(prompt, replies):
    raise sys.modules["src.command.cli"].Stopped(15)


def good(prompt, replies):
    yield from range(len(replies))
"""


@pytest.fixture
def call(tmp_path, monkeypatch):
    (tmp_path / "own_scores.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)

    def run(name: str) -> list[float]:
        function = own_function("labeller", f"own_scores.{name}", ("me",))
        return finite_scores(function("Who?", ["a", "b"]), 2, "labeller", name)

    return run


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("key", r"KeyError: 'a' \(.*own_scores.py, line 10\)"),
        ("zero", r"ZeroDivisionError: division by zero \(.*own_scores.py, line 14\)"),
        ("deep", r"JSONDecodeError: Expecting value: .* \(.*decoder.py, line \d+\)"),
        ("silent", r"RuntimeError \(.*own_scores.py, line 22\)"),
        ("later", r"KeyError: 'a' \(.*own_scores.py, line 27\)"),
        ("leaves", r"SystemExit: bye \(.*own_scores.py, line 31\)"),
        ("recursive", r"RecursionError: maximum recursion"),
        ("odd", r"it must return a number for each reply"),
        ("huge", r"it must return a number for each reply"),
    ],
)
def test_a_function_that_fails_is_one_line(call, name, what):
    with pytest.raises(UserError, match=what) as error:
        call(name)
    assert str(error.value).startswith("labeller=")
    assert "\n" not in str(error.value)


def test_a_signal_is_no_failure_of_a_function(call):
    with pytest.raises(Stopped):
        call("stopped")
    assert call("good") == [0, 1]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("lenght(3)", r"NameError: name 'lenght' is not defined.* \(.*file_0.py, line 1\)"),
        ("\n1 / 0", r"ZeroDivisionError: division by zero \(.*file_1.py, line 2\)"),
        ("import nowhere_at_all", r"No module named 'nowhere_at_all' \(.*file_2.py, line 1\)"),
        ("raise SystemExit(3)", r"SystemExit: 3 \(.*file_3.py, line 1\)"),
        ("def f(:", r"invalid syntax.*file_4.py, line 1"),
        ("x = 1", r"has no attribute 'score'; it is me, or a function's dotted name"),
    ],
)
def test_a_file_that_fails_is_one_line(tmp_path, monkeypatch, request, text, what):
    number = request.node.callspec.indices["text"]
    (tmp_path / f"own_file_{number}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=what) as error:
        own_function("labeller", f"own_file_{number}.score", ("me",))
    assert "\n" not in str(error.value)
