"""GPT-2 as a chat assistant, as it is installed: ``gpt2-chat train ...``, and three calls.

    from gpt2_chat import load, open_run, train

This package holds ``src`` and ``conf`` as they are in a checkout, so that they are found as they
are there. In a checkout it stands beside them.
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
HOME = HERE if (HERE / "src").is_dir() else HERE.parent  # the folder that holds src and conf

if str(HOME) not in sys.path:
    sys.path.insert(0, str(HOME))  # before a person's own src, in the folder of a script or a shell

import src  # noqa: E402

if Path(getattr(src, "__file__", None) or "").parent != HOME / "src":
    raise ImportError(
        f"gpt2_chat needs its own package src, and another is imported already, from "
        f"{list(src.__path__)}: import gpt2_chat first, or in another process"
    )


CALLS = ("load", "open_run", "train")


def __getattr__(name: str) -> Any:
    """Return one of the three calls, whose libraries take seconds to import."""
    if name not in CALLS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("src.api"), name)
