"""Starts doors (``python -m src.train ...``) in a second or two instead of eight.

A server imports what a door needs and then forks a process for each start: ``python -m
tests.faults.doors``. It reads one JSON object a line and answers with one. A forked door is like
any other, but for its imports and the embedded rows, which are made, and its one thread.
"""

import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from src.data.sample import sample_rows
from src.signals import end_with_parent, exit_quietly_on_interrupt

ROOT = Path(__file__).parents[2]
SECONDS = 300  # far more than any of these runs takes, on a busy machine too
IMPORTED = ("src.training.start", "src.objectives", "src.talk.assistant", "src.exporting.exports")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGPIPE)


class Door:
    """A door that runs in a process of its own.

    Args:
        server: what forked it.
        pid: of its process, which leads a session: no signal of a terminal reaches it.
        output: the file of its standard output; ``.err`` beside it is its standard error.
    """

    def __init__(self, server: "DoorServer", pid: int, output: Path):
        self.server, self.pid, self.output = server, pid, output
        self.code: int | None = None
        self.memory = 0  # bytes that it or one that it waited for took at most; known at its end

    @property
    def out(self) -> str:
        """What it has printed on standard output."""
        return self.output.read_text(encoding="utf-8")

    @property
    def err(self) -> str:
        """What it has printed on standard error."""
        return self.output.with_suffix(".err").read_text(encoding="utf-8")

    def poll(self) -> int | None:
        """Return its exit code, -n if signal n ended it, None while it runs."""
        if self.code is None:
            answer = self.server.ask(poll=self.pid)
            self.code, self.memory = answer["code"], answer["memory"]
        return self.code

    def wait(self, seconds: float = SECONDS) -> int:
        """Return its exit code; kill it and fail if it does not end in ``seconds``."""
        end = time.monotonic() + seconds
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                self.send(signal.SIGKILL)
                raise AssertionError(f"it still runs after {seconds} s:\n{self.err[-2000:]}")
            time.sleep(0.01)
        return code

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> int:
        """End it with SIGKILL, as a power cut or the kernel out of memory would."""
        self.send(signal.SIGKILL)
        return self.wait()


class DoorServer:
    """Starts doors; a context, at whose end the server and all doors are gone."""

    def __init__(self) -> None:
        # What warns on standard error while it is imported, a test may want to see.
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.doors"],
            cwd=ROOT,
            env=os.environ
            | {
                "PYTHONPATH": str(ROOT),
                "OMP_NUM_THREADS": "1",
                "TOKENIZERS_PARALLELISM": "false",
                "HF_HUB_OFFLINE": "1",
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.num_started = 0

    def __enter__(self) -> "DoorServer":
        return self

    def __exit__(self, *_: Any) -> None:
        self.process.kill()
        self.process.communicate()

    def ask(self, **request: Any) -> dict[str, Any]:
        """Return the answer to a request."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def start(self, door: str, *arguments: str, folder: Path, **environment: str) -> Door:
        """Start ``python -m src.<door>`` with ``arguments`` in a working folder."""
        self.num_started += 1
        output = folder / f".door{self.num_started}.out"
        for file in (output, output.with_suffix(".err")):
            file.touch()
        request = {"door": door, "arguments": arguments, "folder": str(folder)}
        pid = self.ask(**request, output=str(output), environment=environment)["pid"]
        return Door(self, pid, output)

    def run(self, door: str, *arguments: str, folder: Path, seconds: float = SECONDS) -> Door:
        """Start a door and wait for its end."""
        started = self.start(door, *arguments, folder=folder)
        started.wait(seconds)
        return started


def _become(request: dict[str, Any], begun: int) -> None:
    """Make this forked process the door that a request describes; close ``begun`` as it begins."""
    os.setsid()
    end_with_parent()  # what a test that failed left running would slow all others
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler if number == 2 else signal.SIG_DFL)
    exit_quietly_on_interrupt()  # as ``import src`` does for ``python -m src.train``
    os.close(begun)  # a signal finds its handler from here on
    files = {
        0: os.open(os.devnull, os.O_RDONLY),
        1: os.open(request["output"], os.O_WRONLY),
        2: os.open(Path(request["output"]).with_suffix(".err"), os.O_WRONLY),
    }
    for number, file in files.items():
        os.dup2(file, number)
        os.close(file)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    for name in os.environ.get("IGNORED", "").split():  # as nohup does
        signal.signal(getattr(signal, f"SIG{name}"), signal.SIG_IGN)
    if "PLANTED" in os.environ:
        importlib.import_module("tests.faults.planted").plant(os.environ["PLANTED"])
    name = f"src.{request['door']}"
    sys.argv = [name, *request["arguments"]]
    sys.modules.pop(name, None)
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def _serve() -> None:
    for name in IMPORTED:
        importlib.import_module(name)
    sample_rows()
    requests, answers = os.dup(0), os.dup(1)
    with open(requests, encoding="utf-8", closefd=False) as lines:
        for line in lines:
            request = json.loads(line)
            if "poll" in request:
                pid, status, usage = os.wait4(request["poll"], os.WNOHANG)
                code = os.waitstatus_to_exitcode(status) if pid else None
                answer = {"code": code, "memory": usage.ru_maxrss * 1024}
            else:
                waits, begun = os.pipe()
                pid = os.fork()
                if pid == 0:
                    os.close(requests)
                    os.close(answers)
                    os.close(waits)
                    _become(request, begun)
                    sys.exit()
                os.close(begun)
                os.read(waits, 1)  # its end: the door has begun
                os.close(waits)
                answer = {"pid": pid}
            os.write(answers, (json.dumps(answer) + "\n").encode())


if __name__ == "__main__":
    _serve()
