"""With what a run was made, and when: what ``run.json`` says for people.

Nothing of it is ever read to go on with a run. No environment is in it, and no password or token
that stood on the command line.
"""

import functools
import os
import platform
import re
import shlex
import sys
from collections.abc import Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from src.evaluation.record import processor, revision
from src.files import atomic
from src.free_cores import num_cores
from src.training.record import RECORD, read_object
from src.wording.command_line import program

OURS = "gpt2-chat"
LIBRARIES = (OURS, *"torch lightning transformers tokenizers datasets numpy".split())
MOST_STARTS = 100  # are listed: the first, and the last ones
# In a URL: its password, and values that are called a token; elsewhere what hubs call theirs.
SECRETS = (
    (re.compile(r"(?<=://)[^/@\s'\"]+(?=@)"), "***"),
    (
        re.compile(
            r"((?:[?&;]|\b)[\w.-]*(?:token|secret|passw(?:or)?d|signature|sig|api_?key|key|auth)=)"
            r"[^&\s'\"]+",
            re.IGNORECASE,
        ),
        r"\1***",
    ),
    (re.compile(r"\b(?:hf|sk|ghp|github_pat)[_-][A-Za-z0-9_-]{16,}"), "***"),
)

_started: set[Path] = set()  # the folders of the runs that this process is at


def now() -> str:
    """Return the time, in ISO 8601 with its zone."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


def facts(overrides: Sequence[str]) -> dict[str, Any]:
    """Return when and how this process begins or goes on with a run, and with what.

    Args:
        overrides: the settings that a person typed.
    """
    commit, is_dirty = revision()
    return {
        "start": now(),
        "end": None,
        "command": without_secrets(shlex.join([*program("train"), *overrides])),
        "commit": commit,
        "dirty": is_dirty,
        "versions": versions(),
        "hardware": hardware(),
    }


@functools.cache  # a card names them at each improvement
def versions() -> dict[str, str | None]:
    """Return the versions of Python, of CUDA (None: not used) and of the libraries of a run."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found | {"cuda": torch.version.cuda}


def hardware() -> dict[str, Any]:
    """Return what a run computes on, its GPUs by their names."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "system": platform.platform(),
        "cpu": processor(),
        "cores": os.cpu_count(),
        "allowed_cores": num_cores(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
    }


def without_secrets(text: str) -> str:
    """Return text without passwords and tokens of URLs, and without keys of hubs."""
    for pattern, replacement in SECRETS:
        text = pattern.sub(replacement, text)
    return text


def note_start(folder: Path, overrides: Sequence[str], is_new: bool) -> None:
    """Write into the run's record that this process is at it, beside all earlier starts.

    The record itself says what its first start says; an older version has written nothing of it.
    """
    content = read_object(folder / RECORD)
    this = facts(overrides)
    if is_new:
        content |= this
    earlier = content.get("starts")
    starts = [*earlier, this] if isinstance(earlier, list) else [this]
    if len(starts) > MOST_STARTS:
        starts = [starts[0], *starts[1 - MOST_STARTS :]]
    _write(folder, content | {"end": None, "starts": starts})
    _started.add(folder.resolve())


def note_end(folder: Path) -> None:
    """Write into the run's record that this process has left it, if it was at it."""
    if folder.resolve() not in _started:
        return
    _started.discard(folder.resolve())
    is_told = sys.exception() is not None
    try:
        _write_end(folder)
    except OSError:
        if not is_told:  # a full disk is met twice: the error that ends the run is the one told
            raise


def _write_end(folder: Path) -> None:
    content = read_object(folder / RECORD)
    end = {"end": now()}
    starts = content.get("starts")
    if isinstance(starts, list) and starts and isinstance(starts[-1], dict):
        starts[-1] |= end
    _write(folder, content | end)


def _write(folder: Path, content: dict[str, Any]) -> None:
    """Write the record anew; its file stays as old as the run, by which runs are sorted."""
    path = folder / RECORD
    facts = path.stat()
    with atomic.file(path) as temporary:
        temporary.write_text(atomic.as_json(content), encoding="utf-8")
        os.utime(temporary, ns=(facts.st_atime_ns, facts.st_mtime_ns))
