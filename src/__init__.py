"""GPT-2 as a chat assistant: chat rows in, a model that answers out."""

import sys

if sys.argv[:1] == ["-m"]:  # Python looks for the door of ``python -m src.<door>``
    from src.signals import exit_quietly_on_interrupt

    exit_quietly_on_interrupt()  # while the libraries are imported
