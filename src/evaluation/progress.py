"""How far an evaluation has come: a bar at a terminal, lines on standard error elsewhere."""

import sys

from src import progress


class Progress(progress.Progress):
    """The progress of one model, whose last line is said in any case.

    Args:
        total: of what ``add`` counts.
        title: what is done.
    """

    def __init__(self, total: int, title: str):
        super().__init__(total, title, say=_say, says_end=True)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
