"""Jinja for chat templates, as ``transformers`` sets it up: a program of its own, within limits.

A template is another person's program. Jinja's sandbox keeps it from files and from Python's
insides, but not from loops without an end or texts that fill the memory. So it runs in a process
that may take little memory, open no file and start nothing, and that ``rendering`` ends in time.
One JSON object a line comes in and one goes out: first the template, then conversations.
"""

import json
import math
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from typing import Any

from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

MEMORY = 256 * 2**20  # bytes beyond what the interpreter takes
EXTRA = 2**18  # characters that a template writes beside the messages
FACTOR = 8  # characters that it writes for each of a message
# Imports what templates use, while files may still be opened.
WARM_UP = (
    "{{ 'a\\n' | pprint }}{{ lipsum(1) | striptags | wordwrap }}{{ strftime_now('%Y') }}"
    "{{ 'é%s' | format(1 // 0) }}"
)


class Generation(Extension):
    """``{% generation %}`` marks a model's text for training; here it has no effect."""

    tags = {"generation"}  # noqa: RUF012 (no ClassVar: jinja2 declares it without)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class Refusal(Exception):
    """What a template says with ``raise_exception``."""


def chat_environment() -> ImmutableSandboxedEnvironment:
    """Return the compiler of chat templates."""

    def refuse(reason: object) -> None:
        raise Refusal(str(reason))

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    """Like Jinja's filter, without its escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def answers(lines: Iterator[bytes], cpu_seconds: int) -> Iterator[dict[str, str]]:
    """Yield an answer to each line: ``text``, ``refusal`` (the template's words) or ``error``.

    One that takes ``cpu_seconds`` of a processor ends the process.
    """
    environment, template = chat_environment(), None
    for line in lines:
        _limit_time(cpu_seconds)
        request = json.loads(line)
        try:
            if "source" in request:
                template = environment.from_string(request["source"])
                yield {"text": ""}
            else:
                yield {"text": _render(template, request["values"], len(line))}
        except Refusal as error:
            yield {"refusal": str(error)}
        except MemoryError:
            yield {"error": f"it needs more than {MEMORY >> 20} MiB"}
        except Exception as error:  # of another person's program
            yield {"error": str(error).strip() or type(error).__name__}


def _render(template: Any, values: dict[str, Any], length: int) -> str:
    most = EXTRA + FACTOR * length
    pieces, written = [], 0
    for piece in template.generate(**values):
        pieces.append(piece)
        written += len(piece)
        if written > most:
            raise ValueError(f"it writes more than {most:,} characters")
    return "".join(pieces)


def _limit_time(cpu_seconds: int) -> None:
    with suppress(ImportError, ValueError, OSError):  # not on Windows
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF)
        seconds = math.ceil(used.ru_utime + used.ru_stime) + cpu_seconds
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, hard))


def limit() -> None:
    """Take from this process what a template has no use for, where the system can."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    try:
        import resource
    except ImportError:  # Windows
        return
    limits = {"RLIMIT_CORE": 0, "RLIMIT_FSIZE": 0, "RLIMIT_NPROC": 0, "RLIMIT_NOFILE": 0}
    with suppress(OSError):  # no Linux
        with open("/proc/self/statm", encoding="ascii") as file:
            pages = int(file.read().split()[0])
        limits["RLIMIT_AS"] = pages * resource.getpagesize() + MEMORY
    for name, value in limits.items():
        with suppress(AttributeError, ValueError, OSError):
            _, hard = resource.getrlimit(getattr(resource, name))
            least = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(getattr(resource, name), (least, least))


if __name__ == "__main__":
    with suppress(ZeroDivisionError):
        chat_environment().from_string(WARM_UP).render()
    limit()
    for answer in answers(iter(sys.stdin.buffer.readline, b""), int(sys.argv[1])):
        sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
        sys.stdout.buffer.flush()
