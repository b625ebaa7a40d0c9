"""What a person wants to know after a run, and what to do next."""

import shlex
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from src import phases
from src.command_line import command


def summary(figures: Mapping[str, float], outcome: Sequence[str], folder: Path) -> list[str]:
    """Return the lines that end a run; ``outcome`` are its objective's."""
    return [
        "",
        *outcome,
        f"trained {figures['train_seconds']:.0f} s at "
        f"{figures['real_tokens_per_second']:,.0f} tokens/s (padding not counted)",
        *wall_time(figures),
        "",
        f'talk to it:   {command("chat", model_path=folder / "model")} prompt="Who are you?"',
        f"see curves:   tensorboard --logdir {shlex.quote(str(folder.parent))}",
        f"all figures:  {folder / 'metrics.json'}",
    ]


def wall_time(figures: Mapping[str, float]) -> list[str]:
    """Return the wall time of the run and of each of its phases, at most 100 columns wide."""
    name = "seconds/"
    passed = {k.removeprefix(name): v for k, v in figures.items() if k.startswith(name)}
    text = f"took {phases.in_words(passed)}"
    return textwrap.wrap(text, 100, subsequent_indent="     ") if passed else []
