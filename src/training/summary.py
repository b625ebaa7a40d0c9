"""What a person wants to know after a run, and what to do next."""

import re
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from src import phases
from src.files import disk

TOGETHER = "\N{NO-BREAK SPACE}"  # a number and its unit stay in one line
# The charts of ``layout``, not all of them, and unsmoothed: few validations would be drawn wrong.
CURVES = "http://localhost:6006/#custom_scalars&_smoothingWeight=0"


def summary(
    figures: Mapping[str, float],
    outcome: Sequence[str],
    folder: Path,
    use: Sequence[str],
    dropped: int = 0,
) -> list[str]:
    """Return the lines that end a run.

    Args:
        figures: of ``metrics.json``.
        outcome: how it went, by its objective and its validations.
        folder: of the run.
        use: how the result is used, by its objective.
        dropped: bytes of the checkpoints that are removed now.
    """
    return [
        "",
        *_early(figures),
        *outcome,
        f"trained {figures['train_seconds']:.0f} s at "
        f"{figures['real_tokens_per_second']:,.0f} tokens/s (padding not counted)",
        *wall_time(figures),
        "",
        *use,
        f"see curves:   tensorboard --logdir {shlex.quote(str(folder.parent))}",
        f"              {CURVES}",
        f"all figures:  {folder / 'metrics.json'}",
        *_removed(dropped),
    ]


def _early(figures: Mapping[str, float]) -> list[str]:
    """Return what to say of a run that ended before its last step."""
    if "planned_steps" not in figures:
        return []
    return [
        f"ended early, after step {figures['num_steps']:,} of {figures['planned_steps']:,}: no "
        f"validation since step {figures['best_step']:,} was better (trainer.patience)"
    ]


def _removed(dropped: int) -> list[str]:
    if not dropped:
        return []
    return [
        f"removed:      the optimizer's state, {disk.size_text(dropped)} "
        f"(trainer.keep_optimizer=true keeps it)"
    ]


def wall_time(figures: Mapping[str, float]) -> list[str]:
    """Return the wall time of the run and of each of its phases, at most 100 columns wide."""
    name = "seconds/"
    passed = {k.removeprefix(name): v for k, v in figures.items() if k.startswith(name)}
    text = re.sub(r"(?<=\d) (?=\w)", TOGETHER, f"took {phases.in_words(passed)}")
    lines = textwrap.wrap(text, 100, subsequent_indent="     ") if passed else []
    return [line.replace(TOGETHER, " ") for line in lines]
