"""The conversation at a terminal; at the end a real one, on a pseudo-terminal."""

import fcntl
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from src.talk.assistant import Assistant
from src.talk.messages import Message
from src.talk.model_folder import save_model_folder
from src.talk.screen import waiting
from src.terminal.session import Session
from src.terminal.terminal import HistoryFile, converse, line_editor, open_history
from tests.conftest import greedy
from tests.model.conftest import random_model, tiny_config

ROOT = Path(__file__).parents[2]


@pytest.fixture
def session(tokenizer) -> Session:
    model = random_model(tiny_config(vocab_size=tokenizer.vocab_size, n_positions=128))
    return Session(Assistant(model, tokenizer), greedy(30), system=None)


@pytest.fixture
def scripted(session, monkeypatch):
    """Have the model say these tokens; a function among them is called."""

    def script(*tokens) -> None:
        def steps(*args):
            for token in tokens:
                if callable(token):
                    token()
                else:
                    yield [token]

        monkeypatch.setattr("src.talk.assistant.generate", steps)

    return script


def talk(session: Session, *lines) -> None:
    """Converse, reading these lines; an exception among them is raised."""
    left = iter(lines)

    def read() -> str:
        line = next(left, EOFError())
        if isinstance(line, BaseException):
            raise line
        return line

    converse(session, read)


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


def test_answers_go_to_standard_output_and_all_else_to_standard_error(session, scripted, capsys):
    scripted(*session.assistant.tokenizer.encode(" Hi there"))
    talk(session, "Hello", "", "/help", "/nothing", "/retry", "/quit", "never read")
    out, err = capsys.readouterr()
    assert out == "Hi there\nHi there\n"
    for word in ("/settings", "error: there is no command /nothing", "(temperature=0 gives the"):
        assert word in err
    assert "\x1b" not in err  # no colours but at a terminal
    assert [m.content for m in session.messages] == ["Hello", "Hi there"]


def test_a_mistake_does_not_end_the_conversation(session, scripted, capsys):
    scripted(*session.assistant.tokenizer.encode(" Hi"))
    talk(session, "bad \udcff", "long " * 500, "Hello")
    out, err = capsys.readouterr()
    assert out == "Hi\n"
    assert "error: the prompt is not valid Unicode" in err
    assert "leaves no room for an answer" in err


def test_ctrl_c_stops_the_answer_and_what_came_is_part_of_the_conversation(
    session, scripted, capsys
):
    one, two, three = session.assistant.tokenizer.encode("123")
    scripted(one, interrupt, two, three)
    talk(session, "Count")
    assert capsys.readouterr() == ("12\n", "(stopped)\n")
    assert session.messages[-1] == Message("assistant", "12")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_before_the_first_word_or_a_second_time_stops_at_once(session, scripted, capsys):
    numbers = session.assistant.tokenizer.encode(" 1 2 3")
    scripted(interrupt, *numbers)
    talk(session, "Count")
    assert capsys.readouterr() == ("", "(stopped)\n")
    assert session.messages == []
    scripted(*session.assistant.tokenizer.encode(" 1"), interrupt, interrupt, *numbers)
    talk(session, "Count")
    assert capsys.readouterr() == ("1\n", "(stopped)\n")
    assert session.messages[-1] == Message("assistant", "1")


def test_an_idle_ctrl_c_says_how_to_leave(session, capsys):
    talk(session, KeyboardInterrupt(), KeyboardInterrupt())
    assert capsys.readouterr().err == "Ctrl-C stops an answer; Ctrl-D leaves\n" * 2


def test_an_answer_says_when_it_was_cut_off_or_never_came(session, scripted, capsys):
    ids = session.assistant.tokenizer.encode(" 1 2 3")
    scripted(*ids)
    session.generation = greedy(len(ids))
    talk(session, "Count")
    assert capsys.readouterr().err == f"(cut off after max_new_tokens={len(ids)})\n"
    scripted()
    talk(session, "Count")
    assert capsys.readouterr() == ("", "(no answer: the model ended at once)\n")
    assert len(session.messages) == 2


def test_it_says_when_the_oldest_turns_had_no_room(session, scripted, capsys):
    scripted(*session.assistant.tokenizer.encode(" 1 2 3"))
    talk(session, "Count " * 8, "Again " * 8)
    out, err = capsys.readouterr()
    assert out == "1 2 3\n1 2 3\n"
    assert err == "(the oldest turn was left out: the model reads at most 128 tokens)\n"


def test_a_terminal_sees_no_control_characters_of_the_model(session, scripted, capsys, monkeypatch):
    text = "\x1b[2Jred\x07\nand\ttab \x9b é"
    scripted(*session.assistant.tokenizer.encode(text))
    talk(session, "Hello")
    assert capsys.readouterr().out == text + "\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    talk(session, "Hello")
    assert capsys.readouterr().out == "\ufffd[2Jred\ufffd\nand\ttab \ufffd é\n"


def test_a_terminal_sees_whole_words_and_a_pipe_the_text(session, scripted, capsys, monkeypatch):
    text = "one two three four"
    scripted(*session.assistant.tokenizer.encode(text))
    monkeypatch.setattr("src.talk.screen.columns", lambda stream: 10)
    talk(session, "Hello")
    assert capsys.readouterr().out == text + "\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    talk(session, "Hello")
    assert capsys.readouterr().out == "one two\nthree\nfour\n"


def test_a_sign_shows_while_a_person_waits_and_is_removed(capsys, monkeypatch):
    monkeypatch.setattr("src.talk.screen.SECONDS_UNTIL_SIGN", 0.01)
    with waiting("loading"):
        time.sleep(0.05)
    assert capsys.readouterr() == ("", "")  # nobody looks
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    err = ""
    with waiting("loading"):
        end = time.monotonic() + 60
        while "loading" not in err:
            assert time.monotonic() < end
            time.sleep(0.01)
            err += capsys.readouterr().err
    out, last = capsys.readouterr()
    assert out == ""
    assert (err + last).endswith("\r\x1b[K")
    monkeypatch.setattr("src.talk.screen.SECONDS_UNTIL_SIGN", 600)
    with waiting("loading"):
        pass
    assert capsys.readouterr() == ("", "")  # it was not worth a sign


def test_colours_come_at_a_terminal_unless_no_color_is_set(session, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    talk(session, "/nothing", "/clear")
    coloured = capsys.readouterr().err
    assert coloured.startswith("\x1b[31merror: ")
    for name, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            talk(session, "/nothing", "/clear")
            assert capsys.readouterr().err == re.sub("\x1b\\[[0-9]+m", "", coloured)


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ("Hello\r", "Hello"),
        ("one\\\rtwo\r", "one\ntwo"),
        ("one\x1b\rtwo\r", "one\ntwo"),  # Alt-Enter
        ("a\\b\r", "a\\b"),
        ("\x1b[200~one\n  two\x1b[201~\r", "one\n  two"),  # pasted
        ("Helo\x1b[Dl\r", "Hello"),
        ("first\x01very \r", "very first"),
        ("\x1b[A\r", "asked before"),
        ("\x12bef\r\r", "asked before"),  # Ctrl-R
    ],
)
def test_lines_are_edited_as_everywhere(keys, text):
    with create_pipe_input() as pipe:
        read = line_editor(InMemoryHistory(["asked before"]), input=pipe, output=DummyOutput())
        pipe.send_text(keys)
        assert read() == text


class Shown(DummyOutput):
    """Calls ``then`` when the screen's newest text ends with ``text``."""

    def __init__(self, text: str, then: Callable[[], object]):
        self.text, self.then, self.seen = text, then, ""

    def write(self, data: str) -> None:
        self.seen += data
        if self.seen.endswith(self.text):
            self.then()


def test_a_command_is_completed(session):
    with create_pipe_input() as pipe:
        # Completion is not of the moment: what is typed at once would come before it.
        output = Shown("ttings", lambda: pipe.send_text("seed=3\r"))
        read = line_editor(InMemoryHistory(), input=pipe, output=output)
        pipe.send_text("/se\t")
        assert read() == "/settings seed=3"


@pytest.mark.parametrize(
    ("keys", "signal"), [("abc\x03", KeyboardInterrupt), ("\x04", EOFError), ("", EOFError)]
)
def test_ctrl_c_and_ctrl_d_are_told_apart(keys, signal):
    with create_pipe_input() as pipe:
        read = line_editor(InMemoryHistory(), input=pipe, output=DummyOutput())
        pipe.send_text(keys)
        if not keys:
            pipe.close()  # the terminal is gone
        with pytest.raises(signal):
            read()


def test_the_history_outlives_the_conversation_and_is_private(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with create_pipe_input() as pipe:
        read = line_editor(open_history(), input=pipe, output=DummyOutput())
        pipe.send_text("one\x1b\rtwo\r")
        read()
        read = line_editor(open_history(), input=pipe, output=DummyOutput())
        pipe.send_text("\x1b[A\r")
        assert read() == "one\ntwo"
    path = tmp_path / "state" / "gpt2-chat" / "history"
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_history_is_under_home_unless_told_otherwise(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", "not/absolute")
    history = open_history()
    assert history.filename == tmp_path / ".local" / "state" / "gpt2-chat" / "history"


def test_a_history_that_cannot_be_kept_is_said_once_and_ends_nothing(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert isinstance(open_history(), InMemoryHistory)
    assert "no history is kept" in capsys.readouterr().err
    with create_pipe_input() as pipe:
        lost = HistoryFile(tmp_path / "gone" / "history")
        read = line_editor(lost, input=pipe, output=DummyOutput())
        pipe.send_text("Hello\r")
        assert read() == "Hello"
        assert "the history is not kept any more" in capsys.readouterr().err


class Screen:
    """The door on a pseudo-terminal; standard output is a pipe, as in ``chat > answers``."""

    def __init__(self, *arguments: str, **environment: str):
        self.master, self.slave = pty.openpty()
        self.seen = self.before = ""  # not waited for yet; before what was waited for last
        self.process = subprocess.Popen(
            [sys.executable, "-m", "src.chat", "device=cpu", *arguments],
            stdin=self.slave,
            stderr=self.slave,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env=os.environ | environment | {"OMP_NUM_THREADS": "1", "TERM": "xterm"},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # Ctrl-C is a signal there
        )

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def wait_for(self, text: str, seconds: float = 200) -> None:
        """Read the screen until ``text`` appears after what was waited for before."""
        until = time.monotonic() + seconds
        while text not in self.seen:
            ready, _, _ = select.select([self.master], [], [], max(0, until - time.monotonic()))
            assert ready, f"{text!r} did not appear: {self.seen!r}"
            self.seen += os.read(self.master, 4096).decode(errors="replace")
        self.before, _, self.seen = self.seen.partition(text)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        os.close(self.master)
        os.close(self.slave)


def test_a_conversation_on_a_real_terminal(tokenizer, tmp_path):
    model = random_model(tiny_config(vocab_size=tokenizer.vocab_size, n_positions=20_000))
    save_model_folder(tmp_path / "model", model, tokenizer, greedy(8))
    environment = {"XDG_STATE_HOME": str(tmp_path), "PROMPT_TOOLKIT_NO_CPR": "1"}
    screen = Screen(f"model_path={tmp_path / 'model'}", "max_new_tokens=20000", **environment)
    with closing(screen):
        converse_on(screen, tmp_path)


def converse_on(screen: Screen, folder: Path) -> None:
    screen.wait_for("/help lists the commands")
    screen.wait_for("> ")
    screen.type("\x03")
    screen.wait_for("Ctrl-D leaves")
    screen.wait_for("> ")
    screen.type("Hello\r")
    first = screen.process.stdout.read(20)  # it streams: the answer has thousands of tokens
    screen.wait_for("Hello")
    screen.type("\x03")
    screen.wait_for("(stopped)")
    screen.wait_for("> ")
    screen.type("/settings max_new_tokens=2000\r")
    screen.wait_for("max_new_tokens=2000")
    screen.wait_for("> ")
    screen.type("/retry\r")
    first += screen.process.stdout.read(100)
    screen.type("/help typed ahead")
    screen.wait_for("cut off after max_new_tokens=2000")
    assert "typed ahead" not in screen.before  # it did not show in the answer,
    screen.wait_for("typed ahead")  # it stands in the next prompt
    screen.type("\x15/settings max_new_tokens=4\r")
    screen.wait_for("max_new_tokens=4")
    screen.wait_for("> ")
    screen.type("/retry\r")
    screen.wait_for("cut off after max_new_tokens=4")
    screen.wait_for("> ")
    screen.type(f"/save {folder}/talk.jsonl\r")
    screen.wait_for("saved 1 turn")
    screen.wait_for("> ")
    screen.type("\x04")
    rest = screen.process.stdout.read()
    assert screen.process.wait(60) == 0
    answers = (first + rest).decode().splitlines()
    assert len(answers) == 3
    assert answers[0].startswith(answers[2])
    assert (folder / "talk.jsonl").read_text().count("\n") == 1
    assert "+Hello" in (folder / "gpt2-chat" / "history").read_text()
