"""What a person wants to know after a run, and what to do next."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from src.command_line import command

CURVES = "http://localhost:6006/#custom_scalars"  # the charts of ``layout``, not all of them


def summary(figures: Mapping[str, float], outcome: Sequence[str], folder: Path) -> list[str]:
    """Return the lines that end a run; ``outcome`` are its objective's."""
    return [
        "",
        *outcome,
        f"trained {figures['train_seconds']:.0f} s at "
        f"{figures['real_tokens_per_second']:,.0f} tokens/s (padding not counted)",
        "",
        f'talk to it:   {command("chat", model_path=folder / "model")} prompt="Who are you?"',
        f"see curves:   tensorboard --logdir {shlex.quote(str(folder.parent))}",
        f"              {CURVES}",
        f"all figures:  {folder / 'metrics.json'}",
    ]
