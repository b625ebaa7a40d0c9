"""A signal ends a door with 128 + its number; what it leaves is in order."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[1]
NAMES = ("TERM", "INT", "HUP", "USR1")
TIMEOUT = 120  # seconds, on a busy machine; what must be stopped takes longer
BEGINNING = """
import os, signal, subprocess, sys, time
from src import signals
def send(name, to=None):
    os.kill(to or os.getpid(), getattr(signal, 'SIG' + name))
"""


def run(code: str, *arguments: str, **options) -> subprocess.CompletedProcess[str]:
    """Run code in a process with the handlers of a shell's foreground."""
    defaults = "for n in signals.STOPS: signal.signal(n, signal.SIG_DFL)\n"
    return subprocess.run(
        [sys.executable, "-c", BEGINNING + defaults + code, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
        **options,
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_signal_ends_the_process_at_once_and_what_it_has_started(name, tmp_path):
    code = """
child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])
print(child.pid, flush=True)
part = open(sys.argv[2], 'w')
signals.take()
signals.at_end(lambda: os.unlink(sys.argv[2]))
signals.say_at_end('go on with: this')
send(sys.argv[1])
time.sleep(600)
"""
    done = run(code, name, str(tmp_path / "part"))
    assert done.returncode == 128 + getattr(signal, f"SIG{name}")
    assert done.stderr == f"SIG{name}: stopped\ngo on with: this\n"
    assert list(tmp_path.iterdir()) == []
    end = time.monotonic() + 60
    while is_running(int(done.stdout)):
        assert time.monotonic() < end
        time.sleep(0.01)


def is_running(process: int) -> bool:
    """Whether a process is there that has not ended; not everywhere is one taken away then."""
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_no_code_of_others_can_catch_it():
    code = """
signals.take()
try:
    send('TERM')
    time.sleep(600)
except BaseException:
    pass
finally:
    print('caught')
"""
    assert (run(code).returncode, run(code).stdout) == (143, "")


def test_the_first_is_remembered_while_a_step_is_taken_and_the_second_is_not():
    code = """
import logging, threading
said = threading.Event()
class Said(logging.StreamHandler):
    def emit(self, record):
        super().emit(record)
        said.set()
logging.basicConfig(format='%(message)s', handlers=[Said()])
signals.take()
signals.defer(True)
send('USR1')
said.wait()  # by the thread that listens
print(signals.received().name, flush=True)
send('TERM')
print('never')
"""
    done = run(code)
    assert (done.returncode, done.stdout) == (143, "SIGUSR1\n")
    assert done.stderr == ("SIGUSR1: saving after this step, then stopping\nSIGTERM: stopped\n")


def test_a_long_call_of_a_library_does_not_hold_it_up():
    code = """
import hashlib, threading
signals.take()
threading.Timer(0.3, send, ['TERM']).start()
hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)  # minutes, in which Python runs no handler
"""
    assert run(code).returncode == 143  # within TIMEOUT


def test_what_is_ignored_stays_ignored():
    code = """
signal.signal(signal.SIGHUP, signal.SIG_IGN)
signals.take()
send('HUP')
print('goes on')
"""
    assert (run(code).returncode, run(code).stdout) == (0, "goes on\n")


def test_a_fork_leaves_the_signals_to_its_parent():
    """As a worker does, to which a terminal or a queue sends the same signal."""
    code = """
signals.take()
signals.defer(True)
pid = os.fork()
if pid == 0:
    time.sleep(0.5)
    os._exit(7)
time.sleep(0.1)
send('TERM', pid)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), signals.received())
"""
    done = run(code)
    assert (done.returncode, done.stdout) == (0, "7 None\n")


def test_a_caller_that_goes_on_gets_an_exception():
    code = """
import contextlib
def library():
    with contextlib.suppress(Exception):
        send('TERM')
        time.sleep(600)
try:
    with signals.taken():
        library()
except signals.Stop as stop:
    print(stop.signal.name, signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
"""
    assert run(code).stdout == "SIGTERM True\n"


def test_ctrl_c_while_the_libraries_are_imported_is_no_traceback():
    """``python -m src.chat`` imports ``src`` first of all."""
    code = """
sys.argv = ['-m']
signal.signal(signal.SIGINT, signal.default_int_handler)
del sys.modules['src'], sys.modules['src.signals']
import src
send('INT')
time.sleep(600)
"""
    done = run(code)
    assert (done.returncode, done.stderr) == (130, "")


def test_a_process_whose_parent_obeys_the_signals_only_remembers_the_first():
    code = """
signals.remember()
send('INT')
send('TERM')
signals.defer(True)
signals.defer(False)
send('INT')
with signals.taken():  # a run, which asks what has come
    print(signals.received().name, signals.remembers())
"""
    done = run(code)
    assert (done.returncode, done.stdout) == (0, "SIGINT True\n"), done.stderr


def test_the_first_waits_for_the_processes_that_it_was_given_to_and_the_second_does_not():
    code = """
signals.take()
given = []
with signals.first_waits(lambda received: given.append(received.name) or True):
    send('INT')
    time.sleep(signals.SECONDS_TO_ACT + 0.5)
    print(given, signals.received().name, flush=True)
    send('INT')
    time.sleep(600)
"""
    done = run(code)
    assert (done.returncode, done.stdout) == (130, "['SIGINT'] SIGINT\n"), done.stderr
    alone = code.replace("or True", "and False")
    done = run(alone)
    assert (done.returncode, done.stdout) == (130, "")
