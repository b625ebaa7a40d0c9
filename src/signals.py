"""Signals that stop a door: 128 + n is its exit code, and nothing is left half done.

While training steps are taken, the first signal is only remembered: the step, and the validation
and the save that are due after it, come first. Any other signal ends the process where it is, as
SIGKILL would; before that, the files it was writing and the processes it has started are removed.
So nothing is raised into code of others, which might catch it. A process that is killed in the same
place loses nothing either: what is written appears whole or not at all.
"""

import atexit
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

NAMES = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1")  # Windows has the first two
STOPS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))
# torchrun passes on the Ctrl-C that the terminal has sent to every process already.
ECHO_SECONDS = 1.0 if "TORCHELASTIC_RUN_ID" in os.environ else 0.0
SECONDS_TO_ACT = 1.0  # for Python's main thread, which may be in a long call of a library

log = logging.getLogger(__name__)


class Stop(BaseException):
    """A signal stops the run; no ``except Exception`` catches it."""

    def __init__(self, received: signal.Signals):
        super().__init__(received.name)
        self.signal = received


class _State:
    owner = 0  # the process that took the signals; its children ignore them
    deferred = False
    received: signal.Signals | None = None
    since = 0.0
    raises = False
    remembers = False
    waits = False  # for other processes, which the first signal was given to
    parting = ""


_cleanups: list[Callable[[], object]] = []
_waits: list[Callable[[signal.Signals], bool]] = []


def received() -> signal.Signals | None:
    """Return the signal that has come and is not obeyed yet."""
    return _State.received


def has_taken() -> bool:
    """Whether this process, and not one that it is a fork of, obeys the signals."""
    return _State.owner == os.getpid()


def exit_quietly_on_interrupt() -> None:
    """Let Ctrl-C end this process without Python's traceback, until a door decides otherwise."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _exit)


def _exit(number: int, frame: FrameType | None) -> NoReturn:
    os._exit(128 + number)


def raise_on_interrupt() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _exit:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def take() -> None:
    """Have this process obey the signals until it ends; those that it ignores stay ignored.

    A thread hears of each signal, too: it writes what was heard into the log, and ends the process
    if its main thread does not come back from a call in which Python runs no handlers.
    """
    import psutil  # noqa: F401 - here, and not while a signal is handled

    _install(raises=False)
    heard, speaks = socket.socketpair()
    speaks.setblocking(False)
    signal.set_wakeup_fd(speaks.fileno(), warn_on_full_buffer=False)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_forget_parent)
    atexit.register(_forget_parent)
    threading.Thread(target=_listen, args=(heard, speaks), daemon=True).start()


@contextmanager
def taken() -> Iterator[None]:
    """Obey the signals in this context, by raising ``Stop`` in place of ending the process.

    For a caller that goes on after a stop; in a door, which has taken them, this does nothing.
    """
    if has_taken() or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = _install(raises=True)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _State.owner, _State.received, _State.deferred = 0, None, False


def remember() -> None:
    """Only remember the first signal, and ignore others: of a process whose parent obeys them.

    What it does ends where it asks what it has ``received``. It ends with its parent.
    """
    if has_taken():
        return
    for number in STOPS:
        signal.signal(number, _handle)
    _State.owner, _State.remembers = os.getpid(), True
    end_with_parent()


def remembers() -> bool:
    """Whether this process leaves the signals to its parent."""
    return _State.remembers and has_taken()


@contextmanager
def first_waits(hands_on: Callable[[signal.Signals], bool]) -> Iterator[None]:
    """Ask ``hands_on``, in this context, whether the first signal is only remembered here.

    It says so once it has given the signal to other processes, for which this one waits.
    """
    _waits.append(hands_on)
    try:
        yield
    finally:
        _waits.remove(hands_on)


def _install(raises: bool) -> dict[signal.Signals, Any]:
    _State.owner, _State.received, _State.raises = os.getpid(), None, raises
    before = {}
    for number in STOPS:
        handler = signal.getsignal(number)
        if handler not in (signal.SIG_IGN, None):  # nohup, a background job of a shell, or C code
            before[number] = handler
            signal.signal(number, _handle)
    return before


def _forget_parent() -> None:
    """Let no signal be written to a descriptor that is not, or no longer, this process's own."""
    if threading.current_thread() is threading.main_thread():
        with suppress(ValueError):
            signal.set_wakeup_fd(-1)


def defer(yes: bool) -> None:
    """Only remember the first signal from here on, or no longer."""
    _State.deferred = yes


def at_end(cleanup: Callable[[], object]) -> None:
    """Have ``cleanup`` called before a signal ends the process; it may not wait for anything."""
    if cleanup not in _cleanups:
        _cleanups.append(cleanup)


def say_at_end(text: str) -> None:
    """Have ``text`` said when a signal ends the process."""
    _State.parting = text


def follow_parent(*_: object) -> None:
    """Leave the signals to the process that started this one, and end with it."""
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)
    end_with_parent()


def end_with_parent() -> None:
    """Let the kernel kill this process when its parent ends, for whatever reason."""
    if sys.platform == "linux":
        import ctypes

        pr_set_pdeathsig = 1  # prctl(2)
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _handle(number: int, frame: FrameType | None) -> None:
    if not has_taken():  # a fork of the process that has
        return
    now = time.monotonic()
    if number == _State.received and now - _State.since < ECHO_SECONDS:
        return
    is_first = _State.received is None
    if is_first:
        _State.received, _State.since = signal.Signals(number), now
        _State.waits = any(hands_on(_State.received) for hands_on in _waits)
        if _State.deferred or _State.waits:
            return
    if _State.remembers:
        return
    if _State.raises:
        raise Stop(signal.Signals(number))
    _leave(number)


def _listen(heard: socket.socket, speaks: socket.socket) -> None:
    """Log the first signal of those that are deferred; see that all others end the process."""
    first, since = 0, 0.0
    while True:
        try:
            numbers = heard.recv(64)
        except OSError:  # the interpreter ends, and closes descriptors under this thread
            return
        for number in numbers:
            if number not in STOPS:
                continue
            now = time.monotonic()
            if number == first and now - since < ECHO_SECONDS:
                continue
            is_first, first, since = not first, first or number, since or now
            name = signal.Signals(number).name
            if is_first and _State.deferred:
                log.warning("%s: saving after this step, then stopping", name)
                continue
            time.sleep(SECONDS_TO_ACT)
            if not (is_first and _State.waits):
                _leave(number)


def _leave(number: int) -> NoReturn:
    """End this process and all that it has started; remove what it was writing."""
    import psutil

    with suppress(psutil.Error):
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                child.kill()
    for cleanup in _cleanups:
        with suppress(Exception):  # the others' turn comes all the same, and then the end
            cleanup()
    lines = [f"{signal.Signals(number).name}: stopped", _State.parting]
    with suppress(OSError):
        # Not through the log: the signal may have come while it was written.
        os.write(2, "".join(f"{line}\n" for line in lines if line).encode())
    os._exit(128 + number)
