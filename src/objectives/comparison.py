"""Another's run beside this one: its figures by its own average, and its answers."""

from collections.abc import Mapping, Sequence

from src.objectives.reply_table import Answered, one_line
from src.training.config import ReferenceConfig

WIDTH = 96  # columns of a line


def comparison_lines(
    reference: ReferenceConfig | None, figures: Mapping[str, float], rows: Sequence[Answered]
) -> list[str]:
    """Return the lines that set this run beside ``reference``; none without one.

    Args:
        reference: what others have published of their run.
        figures: of this run; ``last_train/`` are those averaged as the reference's are.
        rows: the questions with this run's answers.
    """
    if reference is None or "last_train/loss" not in figures:
        return []
    averaged, steps = int(figures["last_train/num_steps"]), int(figures["num_steps"])
    name = one_line(reference.name, 40)
    width = max(len(name), len("this run"))
    lines = [
        "",
        f"beside {name}, whose figures are means over its last {reference.average_over} training "
        f"steps:",
        _row(width, name, reference.loss, reference.accuracy, reference.seconds, reference.steps),
        _row(
            width,
            "this run",
            figures["last_train/loss"],
            figures["last_train/accuracy"],
            figures["train_seconds"],
            steps,
        ),
    ]
    if averaged < reference.average_over or steps != reference.steps:
        lines.append(
            f"(they are not of equal length: this run's figures are of its last {averaged} steps)"
        )
    return [*lines, *_answers(reference, rows), ""]


def _row(width: int, name: str, loss: float, accuracy: float, seconds: float, steps: int) -> str:
    return (
        f"{name:<{width}}   train loss {loss:.4f}   train accuracy {accuracy:.2%}   "
        f"{steps:,} steps in {seconds:,.0f} s"
    )


def _answers(reference: ReferenceConfig, rows: Sequence[Answered]) -> list[str]:
    """Return the questions to which the reference's answers are known, with both answers."""
    lines = []
    for row in rows:
        known = {
            "its model, untrained": reference.replies_before.get(row.question),
            "its model": reference.replies.get(row.question),
        }
        if row.reference is not None or not any(known.values()):
            continue
        texts = {k: v for k, v in known.items() if v} | {"this model": row.after}
        lines += ["", one_line(row.question, WIDTH)]
        lines += [f"  {who + ':':<22}{one_line(text, WIDTH - 24)}" for who, text in texts.items()]
    return lines
