"""What a pipeline shows in the end: questions, one table, one picture."""

import textwrap
from collections.abc import Iterator
from typing import Any

from src.files import atomic
from src.rlhf.config import FROM_REPLIES, REWARD
from src.rlhf.picture import PICTURE, draw
from src.rlhf.pipeline import EVALUATION, Pipeline
from src.rlhf.record import METRICS, RESULTS

WIDTH = 100  # columns of what is printed
REPORT = "report.md"
HEADER = ("step", "gold", "greedy", "perfect", "right", "beats sft", "KL", "reward", "seconds")
ABOUT = (
    "gold: the labeller's true opinion, -3 to 3, of replies drawn at random; greedy, perfect and "
    "right: of the likeliest replies. beats sft: how often gold prefers it to sft, with a "
    "95% interval. KL: nats a reply."
)


def write_report(pipeline: Pipeline, results: dict[str, Any]) -> list[str]:
    """Write picture and ``report.md``; return the lines for the terminal."""
    folder = pipeline.folder
    picture, report = folder / PICTURE, folder / REPORT
    if not picture.exists():
        draw(results, picture)
    if not report.exists():
        atomic.write_text(report, "\n".join(markdown(results)) + "\n")
    names = {"replies": report, "picture": picture, "figures": folder / METRICS}
    names["all of it"] = folder / RESULTS
    return [
        *question_lines(results),
        "",
        *table_lines(results),
        "",
        *(f"{f'{name}:':<11}{path}" for name, path in names.items()),
    ]


def rows_of(results: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the cells of the table, its header first."""
    metrics = results["metrics"]
    rows: list[tuple[str, ...]] = [HEADER]
    for step, figures in results["figures"].items():

        def cell(name: str, form: str, step: str = step) -> str:
            value = metrics.get(f"{step}.{name}")
            return "" if value is None else format(value, form)

        won = figures.get("win_rate_against_sft", {})
        beats = ""
        if won.get("low") is not None and won["low"] != won["high"]:
            beats = f"{won['value']:.0%} ({100 * won['low']:.0f}-{100 * won['high']:.0f})"
        rows.append(
            (
                step.replace("_", " "),
                cell("gold", "+.2f"),
                cell("gold_greedy", "+.2f"),
                cell("perfect_greedy", ".0%"),
                cell("right_greedy", ".0%"),
                beats,
                cell("kl", ".2f"),
                cell("reward", "+.2f"),
                cell("seconds", ",.0f"),
            )
        )
    return rows


def table_lines(results: dict[str, Any]) -> list[str]:
    """Return the table, then what else is to be known, at most ``WIDTH`` columns wide."""
    rows = rows_of(results)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            f"{cell:{'<' if number == 0 else '>'}{width}}"
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    notes = [f"{results['num_prompts']} test prompts, {ABOUT}", *_notes(results["metrics"])]
    return [*lines, "", *(part for text in notes for part in textwrap.wrap(text, WIDTH))]


def _notes(metrics: dict[str, Any]) -> Iterator[str]:
    if f"{REWARD}.accuracy" in metrics:
        reward = {k.split(".")[1]: v for k, v in metrics.items() if k.startswith(f"{REWARD}.")}
        as_gold = reward["gold_order"]
        yield (
            f"reward model: {reward['accuracy']:.1%} of the test pairs as the labeller, where "
            f"{reward['accuracy_ceiling']:.1%} is possible; "
            + (f"{as_gold:.1%} as gold; " if as_gold is not None else "")
            + f"calibration error {reward['calibration_error']:.3f}"
        )
    for step in FROM_REPLIES:
        if f"{step}.val_gold_peak" in metrics:
            peak, end, low, high = (
                metrics[f"{step}.{name}"]
                for name in (
                    *("val_gold_peak", "val_gold_end"),
                    *("val_reward_at_peak", "val_reward_end"),
                )
            )
            yield (
                f"{step}, on validation prompts: gold {peak:+.2f} at its highest, {end:+.2f} in "
                f"the end; reward {low:+.2f} there, {high:+.2f} in the end"
            )
    others = {k: v for k, v in metrics.items() if k in ("rank.seconds", f"{EVALUATION}.seconds")}
    rest = ", ".join(f"{k.split('.')[0]} {v:,.0f}" for k, v in others.items())
    reward_seconds = metrics.get(f"{REWARD}.seconds", 0.0)
    yield f"{metrics['seconds']:,.0f} seconds in all: {REWARD} {reward_seconds:,.0f}, {rest}"


def question_lines(results: dict[str, Any]) -> list[str]:
    """Return each question with the replies of the steps below each other."""
    lines: list[str] = []
    for question in results["questions"]:
        lines += ["", *_cut(f"> {question['prompt']}", "  ")]
        width = max(map(len, question["replies"]), default=0)
        for step, reply in question["replies"].items():
            lines += _cut(f"  {step:<{width}}  {_plain(reply)}", " " * (width + 4))
    return lines


def _cut(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=indent, drop_whitespace=False) or [text]


def _plain(reply: str | None) -> str:
    if reply is None:
        return "(no room for a reply)"
    text = " ".join(reply.split())
    return "".join(c if c.isprintable() else "\ufffd" for c in text) or "(nothing)"


def markdown(results: dict[str, Any]) -> list[str]:
    """Return the report as a page of Markdown: table, picture, questions."""
    rows = rows_of(results)
    lines = ["# From imitation to preference", "", *markdown_table(rows), ""]
    lines += [f"{results['num_prompts']} test prompts, {ABOUT}", ""]
    for text in _notes(results["metrics"]):
        lines += [text, ""]
    lines += [f"![what each step gained]({PICTURE})", ""]
    return [*lines, *question_table(results)]


def question_table(results: dict[str, Any]) -> list[str]:
    """Return the questions with the reply of each step, as a table of Markdown."""
    if not results["questions"]:
        return []
    steps = list(results["questions"][0]["replies"])
    replies = [
        (_escaped(q["prompt"]), *(_escaped(_plain(q["replies"][s])) for s in steps))
        for q in results["questions"]
    ]
    return markdown_table([("question", *steps), *replies])


def markdown_table(rows: list[tuple[str, ...]]) -> list[str]:
    """Return a table of Markdown, the header first."""
    header, *others = [f"| {' | '.join(row)} |" for row in rows]
    return [header, "|" + "---|" * len(rows[0]), *others]


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
