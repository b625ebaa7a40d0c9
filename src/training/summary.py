"""What a person wants to know after a run, and what to do next."""

from collections.abc import Mapping, Sequence
from pathlib import Path


def summary(figures: Mapping[str, float], outcome: Sequence[str], folder: Path) -> list[str]:
    """Return the lines that end a run; ``outcome`` are its objective's."""
    return [
        "",
        *outcome,
        f"trained {figures['train_seconds']:.0f} s at "
        f"{figures['real_tokens_per_second']:,.0f} tokens/s (padding not counted)",
        "",
        f'talk to it:   python -m src.chat model_path={folder / "model"} prompt="Who are you?"',
        f"see curves:   tensorboard --logdir {folder.parent}",
        f"all figures:  {folder / 'metrics.json'}",
    ]


def split_lines(figures: Mapping[str, float]) -> list[str]:
    """Return loss, accuracy and perplexity of the last and best validation and of the test."""
    return [
        f"{label:<6}loss {figures[f'{prefix}/loss']:.4f}   accuracy "
        f"{figures[f'{prefix}/accuracy']:.2%}   perplexity {figures[f'{prefix}/perplexity']:.2f}"
        for label, prefix in (("last", "val"), ("best", "best_val"), ("test", "test"))
        if f"{prefix}/loss" in figures
    ]


def exact_match_lines(figures: Mapping[str, float]) -> list[str]:
    """Return exact match of model and baseline, over all and by family, three a line."""
    if "exact_match" not in figures:
        return []
    families = sorted(key for key in figures if key.startswith("exact_match/"))
    cells = [f"{key.removeprefix('exact_match/'):<14}{figures[key]:>6.1%}" for key in families]
    return [
        "",
        f"exact match on the test prompts: {figures['exact_match']:.1%}",
        f"copying the answer of the most similar training prompt: "
        f"{figures['exact_match_nearest_neighbour']:.1%}",
        *("   ".join(cells[row : row + 3]) for row in range(0, len(cells), 3)),
        "",
    ]
