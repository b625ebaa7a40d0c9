"""What the validations of a run say about it, in sentences, where they are true."""

from collections.abc import Sequence
from itertools import pairwise

from src.training.objective import Best

SAME = 1e-3  # share of a figure below which a difference is none to speak of

History = Sequence[tuple[int, float]]  # of each validation: step and figure


def verdict(
    history: History, best_step: int, chosen_by: Best, ended_early: bool = False
) -> list[str]:
    """Return sentences about a run that went wrong, or on for too long; none if it went well.

    Args:
        history: of the figure that chooses the weights, the first weights' before any step.
        best_step: of the weights that are kept.
        chosen_by: which figure it is, and which direction is better.
        ended_early: whether ``trainer.patience`` has ended the run, which is said elsewhere.
    """
    if len(history) < 2:
        return []
    name, values = chosen_by.figure, [value for _, value in history]
    (first_step, first), (last_step, last) = history[0], history[-1]
    best = dict(history).get(best_step, first)
    if max(values) - min(values) <= SAME * abs(first) / 100:
        return [
            f"{name} stayed at {_text(first)} from step {first_step:,} to step {last_step:,}: "
            f"nothing was learned; raise optimizer.learning_rate"
        ]
    if best_step == first_step:
        how = ""
        if all(_is_worse(b, a, chosen_by) for a, b in pairwise(values)):
            how = f"; it {_worsened(chosen_by)} all along" if len(values) > 2 else ""
        return [
            f"no step was better than the weights it began with: model/ holds those of step "
            f"{first_step:,} ({name} {_text(first)}, in the end {_text(last)}{how}); lower "
            f"optimizer.learning_rate, or look at the rows: python -m src.inspect_data"
        ]
    lines = []
    if abs(best - first) <= SAME * abs(first):
        lines.append(
            f"{name} improved by next to nothing: from {_text(first)} to {_text(best)} at best; "
            f"raise optimizer.learning_rate, or train for longer"
        )
    if best_step < last_step and abs(last - best) > SAME * abs(best):
        after = sum(step > best_step for step, _ in history)
        by_heart = ", as a model does that learns its rows by heart" if after > 1 else ""
        further = "" if ended_early else "; trainer.patience would have ended the run"
        lines.append(
            f"best at step {best_step:,} of {last_step:,}: after it {name} {_worsened(chosen_by)} "
            f"from {_text(best)} to {_text(last)}{by_heart}; model/ holds step {best_step:,}"
            f"{further}"
        )
    return lines


def _is_worse(value: float, before: float, chosen_by: Best) -> bool:
    return value > before if chosen_by.lower_is_better else value < before


def _worsened(chosen_by: Best) -> str:
    return "rose" if chosen_by.lower_is_better else "fell"


def _text(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 1e6 else f"{value:.3g}"
