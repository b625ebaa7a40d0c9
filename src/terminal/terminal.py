"""The conversation at a terminal: a line editor with a history, answers as they come, Ctrl-C."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import has_focus
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import Output, create_output

from src.errors import UserError
from src.talk.assistant import Reply
from src.talk.screen import Answer, complain, note, waiting, wants_colour
from src.terminal.commands import COMMANDS, Leave, respond
from src.terminal.keys import unseen_keys
from src.terminal.session import Session

PROMPT = "> "


def converse(session: Session, read: Callable[[], str]) -> None:
    """Answer what ``read`` returns, until ``/quit`` or the end of input (EOFError)."""
    while True:
        try:
            line = read()
            if not line.strip():
                continue
            answer = respond(session, line)
            if isinstance(answer, str):
                note(answer)
            else:
                _stream(answer, session)
        except UserError as error:
            complain(error)
        except KeyboardInterrupt:
            note("Ctrl-C stops an answer; Ctrl-D leaves")
        except (EOFError, Leave):
            return


def _stream(reply: Reply, session: Session) -> None:
    """Show ``reply`` piece by piece; Ctrl-C ends it, and the session keeps the text so far."""
    if reply.num_dropped_turns:
        count = reply.num_dropped_turns
        oldest = "the oldest turn was" if count == 1 else f"the oldest {count} turns were"
        note(f"({oldest} left out: the model reads at most {session.num_positions} tokens)")
    answer, num_shown = Answer(), 0
    pieces = iter(reply)
    try:
        with _interrupts(reply) as interrupted, unseen_keys():
            with waiting("reading"):
                piece = next(pieces, None)
            while piece is not None:
                answer.show(piece)
                num_shown += len(piece)
                piece = None if interrupted.is_set() else next(pieces, None)
    except KeyboardInterrupt:
        interrupted.set()
    if interrupted.is_set():
        reply.close()
    if reply.text:
        answer.show(reply.text[num_shown:])
        answer.end()
    session.keep(reply)
    for remark in _remarks(reply, session):
        note(remark)


@contextmanager
def _interrupts(reply: Reply) -> Iterator[Event]:
    """Let Ctrl-C set the event; before the first text and the second time, it also interrupts."""
    interrupted = Event()

    def on_interrupt(number: int, frame: object) -> None:
        if interrupted.is_set() or not reply.text:
            interrupted.set()
            raise KeyboardInterrupt
        interrupted.set()

    handler = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, handler)


def _remarks(reply: Reply, session: Session) -> Iterator[str]:
    generation = session.generation
    if reply.stop_reason == "cancelled":
        yield "(stopped)"
    elif not reply.text:
        yield "(no answer: the model ended at once)"
    elif reply.stop_reason == "length" and reply.num_new_tokens == generation.max_new_tokens:
        yield f"(cut off after max_new_tokens={generation.max_new_tokens})"
    elif reply.stop_reason == "length":
        yield f"(cut off: the model has no more than {session.num_positions} positions)"
    if session.num_retries and not generation.temperature:
        yield "(temperature=0 gives the same answer again; /settings temperature=0.7 gives others)"


def line_editor(
    history: History, input: Input | None = None, output: Output | None = None
) -> Callable[[], str]:
    """Return a function that reads a question of one line or several.

    Enter ends the question; after a backslash it begins a new line, as Alt-Enter does. The function
    raises KeyboardInterrupt on Ctrl-C and EOFError on Ctrl-D.

    Args:
        history: the earlier questions, for the arrow keys and Ctrl-R.
        input: None: standard input.
        output: None: the terminal on standard error, for standard output is for answers.
    """
    screen = sys.stdout if sys.stdout.isatty() and not sys.stderr.isatty() else sys.stderr
    editor: PromptSession[str] = PromptSession(
        [("bold ansigreen" if wants_colour(screen) else "", PROMPT)],
        multiline=True,
        prompt_continuation=" " * len(PROMPT),
        history=history,
        key_bindings=_keys(),
        completer=WordCompleter(
            [f"{name} " if command.argument else name for name, command in COMMANDS.items()],
            sentence=True,
        ),
        complete_while_typing=False,
        enable_suspend=True,
        input=input,
        output=output or create_output(screen),
    )

    def read() -> str:
        line = editor.prompt()
        if isinstance(history, HistoryFile) and history.problem:
            note(f"the history is not kept any more: {history.problem}")
            history.problem = None
        return line

    return read


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter", filter=has_focus(DEFAULT_BUFFER))
    def end(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.document.text_before_cursor.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.newline(copy_margin=False)
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter", filter=has_focus(DEFAULT_BUFFER))
    def new_line(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    return keys


class HistoryFile(FileHistory):
    """A history in a file; ``problem`` says why the last line could not be written."""

    problem: OSError | None = None

    def store_string(self, string: str) -> None:
        try:
            super().store_string(string)
        except OSError as error:  # a full disk ends no conversation
            self.problem = error


def open_history() -> History:
    """Return the history of earlier conversations; an empty one where no file can be written.

    By the XDG base directory specification the file is ``$XDG_STATE_HOME/gpt2-chat/history``, by
    default under ``~/.local/state``.
    """
    try:
        state = os.environ.get("XDG_STATE_HOME", "")
        root = Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state"
        path = root / "gpt2-chat" / "history"
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600))
    except (OSError, RuntimeError) as error:  # RuntimeError: no home
        note(f"no history is kept: {error}")
        return InMemoryHistory()
    return HistoryFile(path)
