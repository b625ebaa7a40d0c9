"""A chat template at work, in a process of its own that can neither hang nor fill this one."""

import json
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from src.errors import UserError


class Refusal(UserError):
    """A chat template that is whole does not take this conversation."""


PROGRAM = Path(__file__).with_name("jinja.py")
CPU_SECONDS = 3  # of a processor, for one answer; honest templates take milliseconds
SECONDS = 30.0  # by the clock: a busy machine may keep an honest one waiting
START_SECONDS = 30.0  # for the interpreter, which no template slows down


class Renderer:
    """Renders a template in Jinja; threads may share it.

    The process ends with this object, and with this process, whatever ends it.

    Args:
        source: the template.
        owner: the model's folder, for messages.

    Raises:
        UserError: the template is not valid Jinja, or takes too long or too much memory.
    """

    def __init__(self, source: str, owner: Path | None = None):
        self.source, self.where = source, f" ({owner})" if owner else ""
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        with self._lock:
            self._start()

    def render(self, values: Mapping[str, Any]) -> str:
        """Return the text of ``values``.

        Raises:
            Refusal: the template refuses them.
            UserError: it is broken, or takes too long or too much memory.
        """
        with self._lock:
            process = self._process or self._start()
            answer = self._ask(process, {"values": values}, SECONDS)
        if "refusal" in answer:
            raise Refusal(
                f"the model's chat template refuses this conversation: {answer['refusal']}"
                f"{self.where}"
            )
        return answer["text"]

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-P", str(PROGRAM), str(CPU_SECONDS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for this process
        )
        self._process = process
        weakref.finalize(self, _end, process)
        self._ask(process, {"source": ""}, START_SECONDS)
        self._ask(process, {"source": self.source}, SECONDS)
        return process

    def _ask(
        self, process: subprocess.Popen[bytes], request: Mapping[str, Any], seconds: float
    ) -> dict[str, str]:
        assert process.stdin is not None
        assert process.stdout is not None
        is_late = threading.Event()
        timer = threading.Timer(seconds, _stop, (process, is_late))
        timer.daemon = True
        timer.start()
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = b""
        finally:
            timer.cancel()
        answer: dict[str, str] = {}
        if line.endswith(b"\n"):
            answer = json.loads(line)
        else:
            _end(process)
            self._process = None
            if is_late.is_set():
                answer["error"] = f"it runs for more than {seconds:g} seconds"
            elif process.returncode == -getattr(signal, "SIGXCPU", 99):  # not on Windows
                answer["error"] = f"it computes for more than {CPU_SECONDS} seconds"
            else:
                answer["error"] = "it ends"
        if "error" in answer:
            reason = " ".join(answer["error"].splitlines()[:1])
            raise UserError(f"the model's chat template is broken{self.where}: {reason}")
        return answer


def _stop(process: subprocess.Popen[bytes], is_late: threading.Event) -> None:
    is_late.set()
    process.kill()


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with suppress(BrokenPipeError):  # what was never read
                stream.close()
