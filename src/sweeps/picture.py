"""``sweep.png``: the losses by what was swept, and the curves of the runs."""

import statistics
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.patches import Rectangle
from matplotlib.ticker import EngFormatter, MaxNLocator

from src.errors import UserError
from src.sweeps.curves import Curve, read_curve
from src.sweeps.outcomes import Outcome, Results, sorted_by_loss
from src.sweeps.ranking import SEED, is_number, settings_of
from src.sweeps.table import axis_texts, cell_key, cell_text, grid_of, loss_text

COLOURS = colormaps["viridis"]  # read by people who see no red or green; the darkest is the best
BEST = "#d95f02"
MOST_NAMES = 12  # in a legend, and half of those in the ranking
DPI = 120


def draw(results: Results, path: Path) -> list[str]:
    """Write the picture; return what is left out of it, a line each."""
    curves, left_out = _curves(results)
    figure = Figure(figsize=(13, 5.5), layout="constrained", dpi=DPI)
    left, right = figure.subplots(1, 2)
    grid = grid_of(results)
    keys = [key for key in results.keys if key != SEED]
    if grid is not None and len(grid[0]) * len(grid[1]) > 1:
        _draw_grid(left, results, keys)
    elif len(keys) == 1 and all(is_number(run.values[keys[0]]) for run in results.outcomes):
        _draw_key(left, results, keys[0])
    else:
        _draw_ranking(left, results)
    _draw_curves(right, results, curves)
    figure.suptitle(_cut(results.folder.absolute().name, 80))
    figure.savefig(path, format="png")
    return left_out


def _curves(results: Results) -> tuple[dict[str, Curve], list[str]]:
    curves, left_out = {}, []
    for run in results.outcomes:
        try:
            curve = read_curve(results.folder / run.folder)
        except UserError as error:
            left_out.append(f"no curve of {run.folder}: {error}")
            continue
        if curve is not None:
            curves[run.folder] = curve
    return curves, left_out


def _norm(losses: list[float]) -> Normalize:
    """Return a scale on which one run that went astray does not make all others alike."""
    low = min(losses)
    high = min(max(losses), low + 3 * (statistics.median(losses) - low) or max(losses))
    return Normalize(low, high if high > low else low + 1e-9, clip=True)


def _draw_grid(axes: Axes, results: Results, keys: list[str]) -> None:
    """Draw a cell for each pair of values, coloured by its loss."""
    grid = grid_of(results)
    assert grid is not None
    rows, columns, cells = grid
    losses = [setting.mean for setting in cells.values() if setting.losses]
    norm, best = _norm(losses or [0.0]), min(losses, default=None)
    size = 11 if len(columns) <= 6 else 8 if len(columns) <= 12 else 5
    for y, row in enumerate(rows):
        for x, column in enumerate(columns):
            setting = cells.get(cell_key(row, column))
            known = setting is not None and bool(setting.losses)
            place = norm(setting.mean) if setting is not None and known else 1.0
            colour: Any = COLOURS(place) if known else "#e6e6e6"
            axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colour, edgecolor="white"))
            ink = "white" if known and place < 0.6 else "black"
            axes.text(x, y, cell_text(setting), ha="center", va="center", color=ink, fontsize=size)
            if known and setting is not None and setting.mean == best:
                axes.add_patch(
                    Rectangle((x - 0.48, y - 0.48), 0.96, 0.96, fill=False, edgecolor=BEST, lw=3)
                )
    first, second = keys
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xticks(range(len(columns)), [_cut(text) for text in axis_texts(results, columns)])
    axes.set_yticks(range(len(rows)), [_cut(text) for text in axis_texts(results, rows)])
    axes.set_xlabel(_cut(second, 60))
    axes.set_ylabel(_cut(first, 60))
    mean = "mean of the seeds' " if SEED in results.keys else ""
    axes.set_title(f"{mean}best val/loss (darker is better, the frame is the best)", fontsize=10)


def _draw_key(axes: Axes, results: Results, key: str) -> None:
    """Draw the loss by the one key that was swept; a mark for each seed, a line for the mean."""
    settings = [setting for setting in settings_of(results) if setting.losses]
    settings.sort(key=lambda setting: setting.values[key])
    values = [setting.values[key] for setting in settings]
    axes.plot(values, [setting.mean for setting in settings], color=COLOURS(0.3), zorder=1)
    for value, setting in zip(values, settings, strict=True):
        axes.scatter([value] * len(setting.losses), setting.losses, color=COLOURS(0.3), zorder=2)
    if settings:
        best = min(settings, key=lambda setting: setting.mean)
        axes.scatter([best.values[key]], [best.mean], s=140, facecolor="none", edgecolor=BEST, lw=2)
        axes.annotate(
            loss_text(best.mean),
            (best.values[key], best.mean),
            (8, -14),
            textcoords="offset points",
        )
    if len(values) > 1 and min(values) > 0 and max(values) / min(values) >= 5:
        axes.set_xscale("log", base=2 if all(isinstance(v, int) for v in values) else 10)
    if len(values) <= MOST_NAMES:
        axes.set_xticks(values, [_cut(text) for text in axis_texts(results, values)])
        axes.minorticks_off()
    axes.set_xlabel(_cut(key, 60))
    axes.set_ylabel("best val/loss")
    axes.set_title("best val/loss", fontsize=10)


def _draw_ranking(axes: Axes, results: Results) -> None:
    """Draw a mark for each run, the best on top."""
    runs = [run for run in sorted_by_loss(results.outcomes) if run.loss is not None]
    runs = runs[: 2 * MOST_NAMES]
    losses = [run.loss or 0.0 for run in runs]
    colours: list[Any] = [BEST if place == 0 else COLOURS(0.3) for place in range(len(runs))]
    axes.scatter(losses, range(len(runs)), color=colours)
    axes.set_yticks(range(len(runs)), [_cut(run.folder) for run in runs], fontsize=8)
    axes.grid(axis="y", alpha=0.3)
    axes.invert_yaxis()
    axes.set_xlabel("best val/loss")
    axes.set_title("best val/loss", fontsize=10)


def _draw_curves(axes: Axes, results: Results, curves: dict[str, Curve]) -> None:
    """Draw the validation loss of each run as it learned, the best on top."""
    if not curves:
        axes.text(
            0.5, 0.5, "no validation losses were logged", ha="center", transform=axes.transAxes
        )
        axes.set_axis_off()
        return
    by_tokens = all(curve.tokens for curve in curves.values())
    runs = [run for run in sorted_by_loss(results.outcomes) if run.folder in curves]
    for place, run in reversed(list(enumerate(runs))):
        curve = curves[run.folder]
        x = curve.tokens if by_tokens else curve.steps
        colour = BEST if place == 0 else COLOURS(place / max(len(runs), 2) * 0.9)
        label = _label(run) if len(runs) <= MOST_NAMES or place < 3 else None
        axes.plot(x, curve.losses, color=colour, lw=2.5 if place == 0 else 1.2, label=label)
        axes.plot(x[-1:], curve.losses[-1:], ".", color=colour)
    losses = [loss for curve in curves.values() for loss in curve.losses]
    usual = [loss for loss in losses if loss <= 2 * statistics.median(losses)]
    margin = 0.05 * (max(usual) - min(losses)) or 0.01
    axes.set_ylim(min(losses) - margin, max(usual) + margin)
    axes.set_xlabel("tokens seen" if by_tokens else "optimizer step")
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 50k, 1.5M
    axes.set_ylabel("val/loss")
    axes.set_title("val/loss as it learned", fontsize=10)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], fontsize=8)


def _label(run: Outcome) -> str:
    name = _cut(run.folder)
    return name if run.is_ranked else f"{name} ({run.state})"


def _cut(text: str, most: int = 28) -> str:
    """Return text that fits, without signs that the font lacks or that begin a formula."""
    font = get_font(findfont("DejaVu Sans"))
    known = "".join(c if font.get_char_index(ord(c)) else "?" for c in text)
    short = known if len(known) <= most else f"{known[: most - 1]}…"
    return short.replace("$", r"\$")
