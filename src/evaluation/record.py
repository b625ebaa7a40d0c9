"""With what an evaluation was made: versions, commit, machine."""

import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from src.free_cores import num_cores

LIBRARIES = (
    *("torch", "transformers", "tokenizers", "safetensors", "numpy"),
    *("rouge-score", "sacrebleu"),
)
CPU_FACTS = Path("/proc/cpuinfo")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that the figures depend on."""
    return {"python": platform.python_version()} | {name: _version(name) for name in LIBRARIES}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def commit() -> str:
    """Return the commit of these files, with ``-dirty`` where they differ from it."""
    name, is_dirty = revision()
    return "unknown" if name is None else name[:12] + ("-dirty" if is_dirty else "")


def revision() -> tuple[str | None, bool | None]:
    """Return the commit of these files, and whether they differ from it; None: it is not known.

    A package that is installed somewhere below another repository has no part in its commits.
    """
    here = Path(__file__)
    if not _git("ls-files", "--error-unmatch", here.name):
        return None, None
    described = _git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    if not described:
        return None, None
    name, dash, _ = described.partition("-")
    return name, bool(dash)


def _git(*arguments: str) -> str:
    """Return what git says of these files; nothing where it is not installed or says no."""
    try:
        done = subprocess.run(
            ("git", *arguments), capture_output=True, text=True, cwd=Path(__file__).parent
        )
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def processor() -> str:
    """Return the processor's name, or its kind where the system does not tell."""
    names = (
        re.findall(r"model name\s*: (.*)", CPU_FACTS.read_text(encoding="utf-8"))
        if CPU_FACTS.exists()
        else []
    )
    return names[0] if names else platform.processor() or platform.machine()


def machine(device: torch.device) -> dict[str, str | int]:
    """Return what the figures were computed on."""
    name = torch.cuda.get_device_name() if device.type == "cuda" else device.type
    return {
        "device": name,
        "processor": processor(),
        "system": platform.platform(),
        "cores": os.cpu_count() or 1,
        "allowed_cores": num_cores(),
        "threads": torch.get_num_threads(),
    }
