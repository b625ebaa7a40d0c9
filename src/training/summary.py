"""What a person wants to know after a run, and what to do next."""

from pathlib import Path
from typing import Any


def summary(metrics: dict[str, Any], folder: Path) -> list[str]:
    """Return the lines that end a run."""
    lines = [""]
    for label, prefix in (("last", "val"), ("best", "best_val"), ("test", "test")):
        if f"{prefix}/loss" in metrics:
            lines.append(
                f"{label:<6}loss {metrics[f'{prefix}/loss']:.4f}   accuracy "
                f"{metrics[f'{prefix}/accuracy']:.2%}   perplexity "
                f"{metrics[f'{prefix}/perplexity']:.2f}"
            )
    if "exact_match" in metrics:
        lines += [*_by_family(metrics), ""]
    return [
        *lines,
        f"trained {metrics['train_seconds']:.0f} s at "
        f"{metrics['real_tokens_per_second']:,.0f} tokens/s (padding not counted)",
        "",
        f'talk to it:   python -m src.chat model_path={folder / "model"} prompt="Who are you?"',
        f"see curves:   tensorboard --logdir {folder.parent}",
        f"all figures:  {folder / 'metrics.json'}",
    ]


def _by_family(metrics: dict[str, Any]) -> list[str]:
    """Exact match of the model and of the baseline, over all and by family, three a line."""
    families = sorted(key for key in metrics if key.startswith("exact_match/"))
    cells = [f"{key.removeprefix('exact_match/'):<14}{metrics[key]:>6.1%}" for key in families]
    return [
        "",
        f"exact match on the test prompts: {metrics['exact_match']:.1%}",
        f"copying the answer of the most similar training prompt: "
        f"{metrics['exact_match_nearest_neighbour']:.1%}",
        *("   ".join(cells[row : row + 3]) for row in range(0, len(cells), 3)),
    ]
