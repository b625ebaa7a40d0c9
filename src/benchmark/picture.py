"""One picture of a run: a bar for each variant, its repeats as a line across the bar's end."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no display needed

from matplotlib import pyplot as plt

from src.benchmark.report import UNITS, Figures, variants_of


def draw(figures: Figures, path: Path) -> bool:
    """Write the picture of all parts that have bars; return whether there are any."""
    parts = {part: names for part in UNITS if (names := variants_of(figures, part))}
    if not parts:
        return False
    heights = [len(names) + 1 for names in parts.values()]
    figure, axes = plt.subplots(
        len(parts),
        figsize=(9, 0.42 * sum(heights) + 0.9),
        height_ratios=heights,
        squeeze=False,
        layout="constrained",
    )
    for axis, (part, names) in zip(axes.flat, parts.items(), strict=True):
        unit = UNITS[part]
        for row, name in enumerate(names):
            speed = figures[f"{part}.{name}.{unit}"]
            low, high = figures[f"{part}.{name}.spread"]
            colour = "tab:blue" if name.startswith("ours") else "tab:gray"
            axis.barh(row, speed, color=colour, height=0.7)
            axis.plot([low, high], [row, row], color="black", linewidth=1.5)
            axis.annotate(
                f"{speed:,.0f}",
                (high, row),
                xytext=(4, 0),
                textcoords="offset points",
                verticalalignment="center",
            )
        axis.set_yticks(range(len(names)), names)
        axis.invert_yaxis()
        axis.margins(x=0.12)
        axis.set_xlim(left=0)
        axis.set_title(f"{part}: {unit.replace('_per_second', ' a second').replace('_', ' ')}")
        axis.spines[["top", "right"]].set_visible(False)
    figure.supxlabel(
        f"{figures['machine.device']}: {figures['machine.processor']}, "
        f"{figures['machine.cores']} cores; the line spans slowest to fastest repeat",
        fontsize="small",
    )
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return True
