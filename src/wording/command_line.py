"""Commands that we print: whoever pastes one into a shell gets what it says, whatever its paths.

Two readers stand between the text and us. A POSIX shell reads it first, then Hydra's grammar of
overrides (https://hydra.cc/docs/advanced/override_grammar/basic/), in which ``(``, ``,`` and ``=``
mean something, too.
"""

import re
import shlex
from pathlib import Path

# What Hydra's grammar and OmegaConf read as these very characters, and as text.
PLAIN = re.compile(r"(?![.\d_]*$)[A-Za-z_/.][\w/.@?+-]*( [\w/.@?+-]+)*", re.ASCII)
WORDS = re.compile(r"null|true|false|nan|inf|\.\d.*", re.IGNORECASE)


PACKAGE = "gpt2_chat"  # which holds ``src`` where it is installed: see its __init__.py
IS_INSTALLED = (Path(__file__).parents[2] / "__main__.py").is_file()  # no checkout has one there


def command(door: str, **values: object) -> str:
    """Return the command that starts a door with these values; ``__`` stands for a dot."""
    options = [option(key.replace("__", "."), value) for key, value in values.items()]
    return " ".join([*program(door), *options])


def program(door: str) -> list[str]:
    """Return the words with which a shell starts a door: in a checkout, or as it is installed."""
    return ["gpt2-chat", door] if IS_INSTALLED else ["python", "-m", f"src.{door}"]


def quickstart() -> str:
    """Return the command that trains a first model."""
    return command("train", experiment="quickstart") if IS_INSTALLED else "make quickstart"


def interpreter_arguments(door: str) -> list[str]:
    """Return what Python is told in order to start a door, whatever folder it is started in."""
    return ["-m", PACKAGE, door] if IS_INSTALLED else ["-m", f"src.{door}"]


def relative(path: str | Path) -> Path:
    """Return a path from the current folder, if it lies below it; else as it is."""
    path, here = Path(path), Path.cwd()
    return path.relative_to(here) if here in path.parents else path


def option(key: str, value: object) -> str:
    """Return ``key=value`` for a shell: as a word, it gives ``value`` to a door."""
    return f"{key}={shlex.quote(grammatical(value))}"


def grammatical(value: object) -> str:
    """Return what Hydra's grammar reads as the text of ``value``: in quotes if it has to be."""
    text = str(value)
    is_plain = text in (".", "..") or (PLAIN.fullmatch(text) and not WORDS.fullmatch(text))
    return text if is_plain else quoted(text)


def quoted(text: object) -> str:
    r"""Return text as a quoted string of Hydra's grammar, whatever characters it holds.

    Backslashes count only before a quote (Hydra) and before ``${`` (OmegaConf).
    """
    text = str(text)
    mark = "'" if '"' in text and "'" not in text else '"'
    text = re.sub(r"(\\*)\$\{", lambda m: m[1] * 2 + r"\${", text)
    text = re.sub(rf"(\\*){mark}", lambda m: m[1] * 2 + "\\" + mark, text)
    text = re.sub(r"(\\+)\Z", lambda m: m[1] * 2, text)
    return mark + text + mark


def unquoted(value: str) -> str:
    """Return the text that a value stands for; one without quotes stands for itself."""
    if len(value) < 2 or value[0] not in "'\"" or value[-1] != value[0]:
        return value
    text = re.sub(rf"(\\+)({value[0]}|\Z)", _halved, value[1:-1])
    return re.sub(r"(\\+)(\$\{)", _halved, text)


def _halved(match: re.Match[str]) -> str:
    return "\\" * (len(match[1]) // 2) + match[2]
