"""The result of a sweep as text: the ranking, the grid, what is true of it, what to do next."""

import math
import os
import shlex
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

from src.sweeps.names import short_keys, spelling
from src.sweeps.optuna_record import OPTUNA, SQLITE
from src.sweeps.outcomes import ACCURACY, PRUNED, WAITING, Results, sorted_by_loss
from src.sweeps.ranking import SEED, Setting, conclusions, is_number, settings_of
from src.training.record import RESULTS
from src.training.status import FAILED, FINISHED, RUNNING
from src.wording.command_line import command

WIDTH = 100
MANY_COLUMNS = 10  # of a grid that is shown as text


def result_lines(results: Results) -> list[str]:
    """Return the lines that end a sweep, or show it as it is now."""
    lines = [title(results), "", *ranking_lines(results)]
    lines += _block(seed_lines(results)) + _block(grid_lines(results))
    sentences = [line for said in conclusions(results) for line in wrapped(f"- {said}")]
    return [*lines, *_block(sentences), ""]


def wrapped(text: str, indent: int = 2) -> list[str]:
    """Return text in lines of ``WIDTH``; words, which may be paths, stay whole."""
    return textwrap.wrap(
        text,
        WIDTH,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _block(lines: Sequence[str]) -> list[str]:
    return ["", *lines] if lines else []


def title(results: Results) -> str:
    """Return what was swept, and how many runs came to which end."""
    shorts = short_keys(results.keys)
    names = [k if shorts[k] == k else f"{k} ({shorts[k]})" for k in results.keys]
    swept = f" of {' and '.join([', '.join(names[:-1]), names[-1]] if names[1:] else names)}"
    waiting = results.num_jobs - len(results.outcomes) + results.count(WAITING)
    states = (RUNNING, FINISHED, PRUNED, FAILED, "stopped", "killed")
    counts = [f"{n} {state}" for state in states if (n := results.count_endings(state))]
    counts += [f"{waiting} waiting"] if waiting else []
    of = f"{results.num_jobs} run{'' if results.num_jobs == 1 else 's'}"
    return f"sweep{swept if names else ''}: {of}, {', '.join(counts)}"


def ranking_lines(results: Results) -> list[str]:
    """Return the runs, the best first: a table."""
    shorts = short_keys(results.keys)
    head = ["rank", *shorts.values(), "val loss", "accuracy", "tokens", "time", "folder"]
    spell = {
        key: spelling([results.shown(run.values.get(key)) for run in results.outcomes])
        for key in results.keys
    }
    rows, notes = [], []
    for rank, run in enumerate(sorted_by_loss(results.outcomes), 1):
        figures = run.figures
        rows.append(
            [
                str(rank) if run.is_ranked else run.state,
                *(spell[key](results.shown(run.values.get(key))) for key in results.keys),
                loss_text(run.loss),
                f"{figures[ACCURACY]:.2%}" if ACCURACY in figures else "",
                f"{figures['num_tokens']:,.0f}" if "num_tokens" in figures else "",
                duration(figures["train_seconds"]) if "train_seconds" in figures else "",
                f"{run.folder} ({PRUNED})" if run.ending == PRUNED else run.folder,
            ]
        )
        if run.reason and run.state == FAILED:
            notes += wrapped(f"{run.folder} failed: {run.reason}")
    return [*aligned([head, *rows], left=(len(head) - 1,)), *_block(notes)]


def seed_lines(results: Results) -> list[str]:
    """Return mean and spread of runs that differ in their seed only: a table."""
    settings = [setting for setting in settings_of(results) if setting.losses]
    if SEED not in results.keys or not any(len(s.losses) > 1 for s in settings):
        return []
    keys = [key for key in results.keys if key != SEED]
    shorts = short_keys(keys)
    spell = {key: spelling(setting.values[key] for setting in settings) for key in keys}
    head = [*shorts.values(), "seeds", "mean val loss", "standard deviation", "lowest", "highest"]
    rows = [
        [
            *(spell[key](setting.values[key]) for key in keys),
            str(len(setting.losses)),
            loss_text(setting.mean),
            loss_text(setting.spread),
            loss_text(min(setting.losses)),
            loss_text(max(setting.losses)),
        ]
        for setting in settings
    ]
    return ["over seeds:", *aligned([head, *rows])]


def grid_of(results: Results) -> tuple[list[object], list[object], dict[str, Setting]] | None:
    """Return the values of rows and columns, and the setting of each cell; None: no such grid.

    A cell's key is ``cell_key`` of its two values.
    """
    keys = [key for key in results.keys if key != SEED]
    if len(keys) != 2:
        return None
    settings = settings_of(results)
    rows, columns = (_in_order([s.values[key] for s in settings]) for key in keys)
    cells = {cell_key(*(s.values[key] for key in keys)): s for s in settings}
    return rows, columns, cells


def cell_key(row: object, column: object) -> str:
    """Return what a cell of the grid is known by."""
    return repr((row, column))


def _in_order(values: Sequence[object]) -> list[object]:
    unique = list({repr(value): value for value in values}.values())
    if all(is_number(value) for value in unique):
        return sorted(unique)  # type: ignore[type-var]
    return sorted(unique, key=lambda v: (not is_number(v), str(v)))


def axis_texts(results: Results, values: Sequence[object]) -> list[str]:
    """Return the values at the side of a grid as they are written there."""
    shown = [results.shown(value) for value in values]
    return list(map(spelling(shown), shown))


def grid_lines(results: Results) -> list[str]:
    """Return the best validation loss by the two keys that were swept: a table.

    Of a search that seldom takes a value twice it would be the ranking again, with gaps.
    """
    grid = grid_of(results)
    if grid is None or len(grid[1]) > MANY_COLUMNS:
        return []
    rows, columns, cells = grid
    if len(cells) < len(rows) * len(columns) / 2:
        return []
    first, second = short_keys([key for key in results.keys if key != SEED]).values()
    head = [f"{first} \\ {second}", *axis_texts(results, columns)]
    table = [
        [text, *(cell_text(cells.get(cell_key(row, column))) for column in columns)]
        for text, row in zip(axis_texts(results, rows), rows, strict=True)
    ]
    lines = aligned([head, *table])
    if max(map(len, lines)) > WIDTH:
        return []
    mean = "mean " if SEED in results.keys else ""
    return [f"{mean}val loss of the best weights, {first} down, {second} across:", *lines]


def cell_text(setting: Setting | None) -> str:
    """Return a cell of the grid: a loss, or the state of its run."""
    if setting is None:
        return ""
    if setting.losses:
        return loss_text(setting.mean)
    states = {run.state for run in setting.runs}
    return states.pop() if len(states) == 1 else "-"


def next_lines(results: Results, files: Sequence[Path]) -> list[str]:
    """Return commands: to talk to the best, and to go on with what is left; ``files`` hold more."""
    best = next((run for run in sorted_by_loss(results.outcomes) if run.is_ranked), None)
    lines = []
    if best is not None:
        talk, *others = (shown(results.folder / best.folder / name) for name in RESULTS)
        scorer = next((other for other in others if other.is_dir()), None)
        if scorer is None:
            lines.append(("talk to the best", command("chat", model_path=talk)))
        else:
            lines.append(("the best reward model", str(scorer)))
    if results.num_remaining and not results.count(RUNNING):
        lines.append((f"go on with {results.num_remaining}", go_on_command(results.folder)))
    if results.sweep.kind == OPTUNA:
        storage = results.sweep.extra.get("sweeper", {}).get("storage")
        url = storage or f"{SQLITE}{shown(results.folder)}/study.db"
        lines.append(("the study", f"optuna-dashboard {shlex.quote(url)}"))
    lines += [("all figures" if p.suffix == ".csv" else "picture", str(shown(p))) for p in files]
    width = max((len(label) for label, _ in lines), default=0) + 1
    return [part for label, text in lines for part in _labelled(label, text, width)]


def _labelled(label: str, text: str, width: int) -> list[str]:
    """Return a label and what it names: in one line if that fits, as a command is not wrapped."""
    line = f"{label + ':':<{width}}  {text}"
    return [line] if len(line) <= WIDTH else [f"{label}:", f"  {text}"]


def go_on_command(folder: Path) -> str:
    """Return the command that goes on with a sweep."""
    return command("train", resume=shown(folder)).replace("src.train ", "src.train -m ", 1)


def shown(path: Path) -> Path:
    """Return a path as short as it can be written from here."""
    relative = Path(os.path.relpath(path))
    return path if relative.parts[:1] == ("..",) else relative


def loss_text(loss: float | None) -> str:
    """Return a loss with four digits after the point; a hyphen for none."""
    return "-" if loss is None or math.isnan(loss) else f"{loss:.4f}"


def duration(seconds: float) -> str:
    """Return a time as people say it, short."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def aligned(rows: Sequence[Sequence[str]], left: Sequence[int] = ()) -> list[str]:
    """Return rows of a table as lines: columns to the right, but for those in ``left``."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    place: Callable[[int, str], str] = lambda i, text: (  # noqa: E731
        text.ljust(widths[i]) if i in left else text.rjust(widths[i])
    )
    return ["  ".join(place(i, text) for i, text in enumerate(row)).rstrip() for row in rows]
