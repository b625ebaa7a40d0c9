"""``gpt2-chat train ...`` is ``python -m src.train ...`` of a checkout; so are the other doors."""

import runpy
import sys

from gpt2_chat import HOME
from src.signals import exit_quietly_on_interrupt


def doors() -> list[str]:
    """Return the names of the doors: each has its values in a file of ``conf``."""
    return sorted(path.stem for path in (HOME / "conf").glob("*.yaml"))


def main() -> None:
    """Start the door that the first argument names, with the rest of the command line."""
    exit_quietly_on_interrupt()
    named = sys.argv[1:2]
    if not named or named[0] not in doors():
        is_asked = named in ([], ["--help"], ["-h"])
        line = f"gpt2-chat {{{','.join(doors())}}} [key=value ...]"
        problem = "" if is_asked else f"error: there is no door {named[0]}: "
        print(f"{problem}{line}", file=sys.stdout if is_asked else sys.stderr)
        sys.exit(0 if is_asked else 2)
    sys.argv = [f"gpt2-chat {named[0]}", *sys.argv[2:]]
    runpy.run_module(f"src.{named[0]}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
