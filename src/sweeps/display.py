"""While a sweep runs: one line a run, read from their ``status.json``, whatever started them.

At a terminal the lines are updated in place; elsewhere a line is written when a run begins or
ends, and now and then while it goes on.
"""

import shutil
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from src import signals
from src.sweeps.outcomes import ENDED, WAITING, Outcome, Results
from src.sweeps.table import duration, loss_text, shown
from src.training.status import FAILED, RUNNING, STOPPED
from src.wording.lines import WIDTH, fitted

SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_BETWEEN_LINES = 30.0  # of a run that goes on, where there is no terminal
ROWS_LEFT = 3  # of a terminal


class Display:
    """Shows how far the runs are, in a thread of its own, until the context ends.

    Args:
        read: returns the runs as they are now.
        stream: where the lines go: a terminal, or not.
    """

    def __init__(self, read: Callable[[], Results], stream: TextIO):
        self.read, self.stream = read, stream
        self.console = Console(file=stream, highlight=False, soft_wrap=True)
        self.live: Live | None = None
        self.ending = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.before: dict[str, str] = {}  # what has been said
        self.said_at: dict[str, float] = {}
        self.heard = False

    def __enter__(self) -> "Display":
        """Begin; what has ended before is not news."""
        results = self.read()
        self.before = {run.folder: _news(run) for run in results.outcomes if run.state in ENDED}
        self._say(
            f"{results.num_jobs} run{'s' * (results.num_jobs != 1)} in {shown(results.folder)}"
        )
        if self.console.is_terminal:
            self.live = Live(
                console=self.console,
                auto_refresh=False,
                redirect_stdout=False,
                redirect_stderr=False,
                vertical_overflow="crop",
            )
            self.live.start()
            self.console.show_cursor(True)  # a process that is killed cannot give it back
        self.thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Show the end, and leave it there."""
        self.ending.set()
        self.thread.join()
        self._look()
        if self.live is not None:
            self.live.stop()

    def _watch(self) -> None:
        while not self.ending.wait(SECONDS_BETWEEN_LOOKS):
            self._look()

    def _look(self) -> None:
        results = self.read()
        self._say_signal()
        for run in results.outcomes:
            self._tell(run)
        if self.live is not None:
            size = shutil.get_terminal_size()
            lines = run_lines(results, size.lines - ROWS_LEFT)
            most = min(size.columns - 1, WIDTH)
            text = Text("\n".join(shortened(line, most) for line in lines), no_wrap=True)
            self.live.update(text, refresh=True)

    def _say_signal(self) -> None:
        received = signals.received()
        if received is not None and not self.heard:
            self.heard = True
            self._say(f"{received.name}: what runs is saved after its step, and stops")

    def _tell(self, run: Outcome) -> None:
        """Say what is new of a run: a failure everywhere, the rest where there is no terminal."""
        now, is_new = time.monotonic(), self.before.get(run.folder, WAITING) != _news(run)
        self.before[run.folder] = _news(run)
        if is_new and run.state == FAILED:
            self._say(f"{run.folder} failed: {run.reason}")
        elif self.live is None and (
            is_new
            or (run.state == RUNNING and now - self.said_at[run.folder] > SECONDS_BETWEEN_LINES)
        ):
            self._say(run_line(run))
        else:
            return
        self.said_at[run.folder] = now

    def _say(self, line: str) -> None:
        self.console.print(Text(fitted(line, self.stream)))


def shortened(line: str, most: int) -> str:
    """Return a line of at most ``most`` characters, with a sign where it goes on in a log."""
    return line if len(line) <= most else f"{line[: most - 1]}…"


def _news(run: Outcome) -> str:
    """Return what is new of a run when it changes; one that is tried again may fail again."""
    return f"{run.state} {run.updated}" if run.state in ENDED else run.state


def run_lines(results: Results, most: int) -> list[str]:
    """Return a line for each run; where there are more than ``most``, those that go on first."""
    runs = list(results.outcomes)
    total = total_line(results)
    if len(runs) + 1 > most:
        order = [*_in(runs, RUNNING), *_in(runs, STOPPED), *_in(runs, WAITING)]
        recent = [run for run in reversed(runs) if run not in order]
        kept = [*order[: max(most // 2, 1)], *recent]
        kept = kept[: max(most - 1, 1)]
        runs = [run for run in runs if run in kept]
    width = max((len(run.folder) for run in runs), default=0)
    return [*(run_line(run, width) for run in runs), total]


def _in(runs: Sequence[Outcome], state: str) -> list[Outcome]:
    return [run for run in runs if run.state == state]


def run_line(run: Outcome, width: int = 0) -> str:
    """Return how far a run is: name, state, step, validation loss, time left."""
    parts = [f"{run.folder:<{width}}", f"{run.ending:<8}"]
    if run.state == FAILED:
        return "  ".join([*parts, run.reason or ""]).rstrip()
    if run.num_steps:
        steps = f"step {run.step:>{len(str(run.num_steps))}} of {run.num_steps}"
        parts.append(steps)
    loss = run.val_loss if run.state == RUNNING else run.loss
    if loss is not None:
        parts.append(f"val loss {loss_text(loss)}")
    if run.seconds_left is not None:
        parts.append(f"{duration(run.seconds_left)} left")
    elif "train_seconds" in run.figures:
        parts.append(duration(run.figures["train_seconds"]))
    elif run.reason:
        parts.append(run.reason)
    return "  ".join(parts).rstrip()


def total_line(results: Results) -> str:
    """Return how many runs have ended, and how long the rest may take at the pace until now."""
    ended = results.count(*ENDED)
    times = [t for run in results.outcomes if (t := run.figures.get("train_seconds"))]
    going = [run.seconds_left for run in results.outcomes if run.seconds_left is not None]
    waiting = results.num_jobs - ended - results.count(RUNNING)
    line = f"{ended} of {results.num_jobs} runs ended"
    if times and ended < results.num_jobs:
        left = (sum(going) + waiting * sum(times) / len(times)) / max(results.count(RUNNING), 1)
        line += f", about {duration(left)} of training left"
    return line
